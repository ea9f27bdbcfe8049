// Portrait, last picture, video and voice: chosen, dropped, pasted, taken by the camera, recorded.

import * as api from "./api.js";
import { byId, tell } from "./dom.js";
import * as face from "./facebox.js";

const KINDS = ["portrait", "last", "video", "voice"];
const uploads = {};
let changed = () => {};

export const all = () => Object.fromEntries(Object.entries(uploads).map(([kind, found]) => [kind, found.id]));
export const described = () => ({ ...uploads });

export function set(kind, found) {
  if (found) uploads[kind] = found; else delete uploads[kind];
  const told = byId(`${kind}-told`);
  if (!found) {
    tell(told, "");
  } else {
    const size = [found.width && `${found.width}x${found.height}`, found.seconds !== undefined && `${found.seconds} s`];
    tell(told, [found.label, ...size].filter(Boolean).join(", "));
  }
  if (kind === "portrait") face.show(found);
  if (kind === "last") {
    byId("last-picture").hidden = !found;
    if (found) byId("last-picture").src = api.uploadUrl(found);
  }
  if (kind === "voice") {
    byId("voice-play").hidden = !found;
    if (found) byId("voice-play").src = api.uploadUrl(found); else byId("voice-play").removeAttribute("src");
  }
  changed();
}

async function send(kind, blob, name) {
  const told = byId(`${kind}-told`);
  tell(told, "Reading the file ...");
  try {
    set(kind, await api.upload(kind, blob, name));
  } catch (error) {
    tell(told, error.message, true);
  }
}

function dropsInto(kind) {
  const area = byId(`${kind}-drop`);
  byId(`${kind}-file`).addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) send(kind, file, file.name);
    event.target.value = "";
  });
  area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
  area.addEventListener("dragleave", () => area.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    area.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) send(kind, file, file.name);
  });
}

function paste(event) {
  for (const file of event.clipboardData?.files ?? []) {
    if (file.type.startsWith("image/")) return send("portrait", file, file.name);
    if (file.type.startsWith("audio/")) return send("voice", file, file.name);
  }
}

const refused = (what, error) => `The ${what} cannot be used: ${error.message || error.name}`;

function camera() {
  const box = byId("camera-box"), view = byId("camera-view");
  const stop = () => {
    view.srcObject?.getTracks().forEach((track) => track.stop());
    view.srcObject = null;
    box.hidden = true;
    byId("camera").focus();
  };
  byId("camera").addEventListener("click", async () => {
    try {
      view.srcObject = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
      box.hidden = false;
      await view.play();
      byId("camera-take").focus();
    } catch (error) {
      tell(byId("portrait-told"), refused("camera", error), true);
    }
  });
  byId("camera-take").addEventListener("click", () => {
    const canvas = document.createElement("canvas");
    canvas.width = view.videoWidth;
    canvas.height = view.videoHeight;
    canvas.getContext("2d").drawImage(view, 0, 0);
    canvas.toBlob((blob) => { stop(); if (blob) send("portrait", blob, "camera"); }, "image/png");
  });
  byId("camera-stop").addEventListener("click", stop);
}

function recorder() {
  const button = byId("record");
  let running = null;
  button.addEventListener("click", async () => {
    if (running) return running.stop();
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
      const pieces = [];
      running = new MediaRecorder(stream);
      running.addEventListener("dataavailable", (event) => pieces.push(event.data));
      running.addEventListener("stop", () => {
        stream.getTracks().forEach((track) => track.stop());
        const type = running.mimeType;
        running = null;
        button.textContent = "Record";
        button.setAttribute("aria-pressed", "false");
        send("voice", new Blob(pieces, { type }), "recording");
      });
      running.start();
      button.textContent = "Stop recording";
      button.setAttribute("aria-pressed", "true");
      tell(byId("voice-told"), "Recording ...");
    } catch (error) {
      running = null;
      tell(byId("voice-told"), refused("microphone", error), true);
    }
  });
}

export function start(whenChanged) {
  changed = whenChanged;
  KINDS.forEach(dropsInto);
  // A file that misses the areas must not replace the page.
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", (event) => event.preventDefault());
  document.addEventListener("paste", paste);
  camera();
  recorder();
}

export function showFor(task) {
  const wanted = { portrait: "image", last: "last_image", video: "video" };
  for (const [kind, field] of Object.entries(wanted)) byId(`${kind}-drop`).hidden = !task.inputs.includes(field);
}
