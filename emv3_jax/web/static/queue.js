// The queue: one entry a job, kept from one status to the next so that the focus stays where it is.

import * as api from "./api.js";
import { byId, make } from "./dom.js";

const shown = new Map();
let said = "";

function entry(job, after) {
  const parts = {
    picture: make("img", { alt: `Preview of ${job.name}`, hidden: true }),
    title: make("strong"), words: make("p", { class: "quiet words" }), state: make("p"),
    bar: make("progress", { "aria-label": `Progress of ${job.name}` }),
    cancel: make("button", { type: "button", textContent: "Cancel", "aria-label": `Cancel ${job.name}`,
      on: { click: async (event) => {
        event.target.disabled = true;
        try { after(await api.act(job.name, "cancel")); } catch { event.target.disabled = false; }
      } } }),
  };
  parts.item = make("li", { class: "job plain" }, parts.picture,
    make("div", {}, parts.title, parts.words, parts.state, parts.bar, parts.cancel));
  return parts;
}

function words(job, sampler) {
  if (job.state === "queued") return job.note ? `waits: it ${job.note}` : "queued";
  if (job.note) return job.note;
  if (!job.steps) return sampler.state === "starting" ? "the model is being opened" : "reads its inputs";
  return job.step < job.steps ? `step ${job.step} of ${job.steps}` : "decodes the frames";
}

export function show(status, after) {
  const list = byId("queue"), names = new Set(status.queue.map((job) => job.name));
  byId("queue-empty").hidden = status.queue.length > 0;
  for (const [name, parts] of shown) {
    if (names.has(name)) continue;
    parts.item.remove();
    shown.delete(name);
  }
  status.queue.forEach((job, index) => {
    const parts = shown.get(job.name) ?? entry(job, after);
    if (!shown.has(job.name)) {
      shown.set(job.name, parts);
      list.append(parts.item);
    }
    parts.title.textContent = job.name;
    parts.words.textContent = job.request.prompt ?? "";
    const text = words(job, status.sampler);
    if (parts.state.textContent !== text) parts.state.textContent = text;
    parts.bar.hidden = job.state === "queued";
    if (job.steps) { parts.bar.max = job.steps; parts.bar.value = job.step; } else parts.bar.removeAttribute("value");
    const has = job.state === "running" && job.preview > 0;
    parts.picture.hidden = !has;
    parts.item.classList.toggle("plain", !has);
    const address = has ? api.previewUrl(job) : "";
    if (has && parts.picture.getAttribute("src") !== address) parts.picture.src = address;
    if (list.children[index] !== parts.item) list.insertBefore(parts.item, list.children[index]);
  });
  // Screen readers are told of beginnings and ends, not of every step.
  const running = status.queue.find((job) => job.state === "running");
  const now = running ? `${running.name} is being made, ${status.queue.length - 1} more are queued.` : "";
  if (now !== said) {
    said = now;
    byId("queue-said").textContent = now || "The queue is empty.";
  }
}
