// The page: its form, and what the server says every second.

import * as api from "./api.js";
import { byId, make, tell } from "./dom.js";
import * as face from "./facebox.js";
import * as history from "./history.js";
import * as inputs from "./inputs.js";
import * as queue from "./queue.js";
import * as settings from "./settings.js";

const EVERY = 1000, DRAFT = "draft";  // milliseconds; a draft outlives a reload of its tab
let described = null, seenHistory = -1, restored = false;

const whole = (id) => (byId(id).value === "" ? null : Number(byId(id).value));
const task = () => described.tasks.find((found) => found.name === byId("task").value);

function asked() {
  const current = task(), uploads = inputs.all();
  const kinds = { image: "portrait", last_image: "last", video: "video" };
  const wanted = new Set(["voice", ...current.inputs.map((field) => kinds[field])]);
  return {
    task: current.name, prompt: byId("prompt").value, seed: whole("seed"), seconds: whole("seconds"),
    uploads: Object.fromEntries(Object.entries(uploads).filter(([kind]) => wanted.has(kind))),
    face_box: current.face && current.inputs.includes("image") ? face.value() : null,
    checkpoint: byId("checkpoint").value.trim(), settings: settings.values(), save_latents: byId("save-latents").checked,
    consent: byId("consent").checked,
  };
}

function keepDraft() {
  if (!described || !restored) return;
  sessionStorage.setItem(DRAFT, JSON.stringify({ ...asked(), described: inputs.described() }));
}

function fill(given, uploads) {
  byId("task").value = given.task ?? "i2v";
  byId("prompt").value = given.prompt ?? "";
  byId("seed").value = given.seed ?? described.seed;
  byId("seconds").value = given.seconds ?? "";
  byId("checkpoint").value = given.checkpoint ?? "";
  for (const [kind, upload] of Object.entries(uploads)) inputs.set(kind, upload);
  face.set(given.face_box);
  settings.set(given.settings ?? {});
  byId("save-latents").checked = given.save_latents ?? false;
  showTask();
}

function restore() {
  try {
    const draft = JSON.parse(sessionStorage.getItem(DRAFT) ?? "null");
    if (draft) fill(draft, draft.described ?? {});
  } catch {
    sessionStorage.removeItem(DRAFT);
  }
  restored = true;
}

function showTask() {
  inputs.showFor(task());
  face.allow(task());
  keepDraft();
}

const TASKS = { i2v: "Portrait speaks (i2v)", t2v: "From text alone (t2v)", flf2v: "From a first to a last picture (flf2v)",
  lipsync: "New lips for a video (lipsync)" };

async function describe() {
  const { form, puppets } = await api.form();
  if (!form || described) return;
  described = form;
  byId("model").textContent = `Model: ${form.model}`;
  byId("task").replaceChildren(...form.tasks.map(({ name }) => make("option", { value: name, textContent: TASKS[name] ?? name })));
  byId("checkpoint").placeholder = `that of the page (${form.model})`;
  byId("seed").value = form.seed;
  settings.describe(form.settings);
  byId("puppets").hidden = !form.puppets;
  if (form.puppets) {
    byId("puppet-buttons").replaceChildren(...Array.from({ length: puppets }, (_, number) => make("button", {
      type: "button", textContent: `Puppet ${number + 1}`, on: { click: (event) => tryPuppet(event.target, number) } })));
  }
  restore();
  showTask();
}

async function tryPuppet(button, number) {
  button.disabled = true;
  try {
    const found = await api.puppet(number);
    fill({ task: "i2v", prompt: found.prompt, seed: whole("seed"), settings: settings.values(), face_box: found.face_box,
      checkpoint: byId("checkpoint").value }, found.uploads);
    face.set(found.face_box);
    keepDraft();
  } catch (error) {
    tell(byId("form-told"), error.message, true);
  } finally {
    button.disabled = false;
  }
}

async function submit(event) {
  event.preventDefault();
  const told = byId("form-told"), button = byId("submit");
  if (!described) return tell(told, "The model is still being opened.", true);
  button.disabled = true;
  try {
    await api.add(asked());
    tell(told, "");
    await look();
    byId("queue-title").scrollIntoView({ block: "nearest" });
  } catch (error) {
    tell(told, error.message, true);
    if (!byId("consent-row").hidden && !byId("consent").checked) byId("consent").focus();
  } finally {
    button.disabled = false;
  }
}

function kept(clip) {
  const kinds = { portrait: "portrait", last: "last", voice: "voice", video: "video" };
  const found = {};
  for (const upload of clip.uploads ?? []) {
    const kind = kinds[upload.kind];
    const last = clip.request.last_image?.includes(upload.id) && !clip.request.image?.includes(upload.id);
    found[last ? "last" : kind] = upload;
  }
  return found;
}

const acts = {
  take(clip) {
    fill({ ...clip.request, settings: clip.settings, checkpoint: clip.checkpoint, seed: clip.seed ?? clip.request.seed }, kept(clip));
    tell(byId("form-told"), clip.uploads?.length ? "" : "Settings are taken over; choose its portrait and voice again.");
    byId("make").scrollIntoView();
    byId("make").focus();
  },
  async again(clip) {
    const { task: name, prompt, negative_prompt, seconds, face_box } = clip.request;
    const ids = Object.fromEntries(Object.entries(kept(clip)).map(([kind, upload]) => [kind, upload.id]));
    await guarded(() => api.add({ task: name ?? "i2v", prompt, negative_prompt, seconds, face_box, uploads: ids,
      seed: (clip.seed ?? 0) + 1, settings: clip.settings ?? {}, checkpoint: clip.checkpoint ?? "", consent: byId("consent").checked }));
  },
  retry: (clip) => guarded(() => api.act(clip.name, "retry")),
  remove(clip) {
    const dialog = byId("delete");
    byId("delete-name").textContent = clip.name;
    dialog.returnValue = "keep";
    dialog.onclose = () => {
      if (dialog.returnValue === "delete") guarded(() => api.remove(clip.name));
      byId("history-title").scrollIntoView({ block: "nearest" });
    };
    dialog.showModal();
  },
};

async function guarded(act) {
  try {
    await act();
    await look();
  } catch (error) {
    banner(error.message);
    setTimeout(() => banner(""), 8000);
  }
}

function banner(words) {
  byId("banner").hidden = !words;
  byId("banner").textContent = words;
}

const SAMPLER = { starting: "the model is being opened", ready: "ready", busy: "makes a clip", refused: "cannot start" };
const amount = (bytes) => (bytes < 2 ** 30 ? `${Math.ceil(bytes / 2 ** 20)} MiB` : `${(bytes / 2 ** 30).toFixed(1)} GiB`);

function show(status) {
  const { sampler } = status;
  if (byId("sampler").textContent !== SAMPLER[sampler.state]) byId("sampler").textContent = SAMPLER[sampler.state];
  banner(sampler.message);
  byId("consent-row").hidden = status.consent;
  byId("used").textContent = `${amount(status.used)} of ${amount(status.quota)} used`;
  queue.show(status, show);
}

async function look() {
  const status = await api.status();
  show(status);
  if (status.sampler.form && !described) await describe();
  if (status.history !== seenHistory) {
    history.show(await api.history());
    seenHistory = status.history;
  }
}

async function watch() {
  try {
    await look();
  } catch (error) {
    banner(error.status === 401 ? error.message : "The server does not answer; the page goes on when it is there again.");
  }
  setTimeout(watch, EVERY);
}

inputs.start(keepDraft);
face.start(keepDraft);
settings.start(keepDraft);
history.start(acts);
byId("form").addEventListener("submit", submit);
byId("form").addEventListener("input", keepDraft);
byId("task").addEventListener("change", showTask);
watch();
