// The face box: found by the server, drawn in the picture, or typed; in pixels of the portrait.

import * as api from "./api.js";
import { byId, tell } from "./dom.js";

const EDGES = ["y1", "y2", "x1", "x2"];
let upload = null, from = null, changed = () => {};
const field = (edge) => byId(`face-${edge}`);

export function show(found) {
  if (found?.id !== upload?.id) clear();
  upload = found ?? null;
  byId("face").hidden = !upload;
  if (!upload) return;
  byId("face-picture").src = api.uploadUrl(upload);
  for (const edge of EDGES) field(edge).max = edge[0] === "y" ? upload.height : upload.width;
}

export function value() {
  if (!upload) return null;
  if (byId("face-none").checked) return "none";
  const edges = EDGES.map((edge) => field(edge).value.trim());
  return edges.some(Boolean) ? edges.join(",") : null;
}

export function set(text) {
  const edges = /^\d+(,\d+){3}$/.test(text ?? "") ? text.split(",") : ["", "", "", ""];
  EDGES.forEach((edge, index) => { field(edge).value = edges[index]; });
  byId("face-none").checked = text === "none";
  draw();
}

export function clear() {
  set(null);
  tell(byId("face-told"), "");
}

export function allow(task) {
  byId("face").querySelector("fieldset").hidden = !task.face;
  byId("face-area").classList.toggle("off", !task.face);
  byId("face-none-label").hidden = !task.none;
}

function draw() {
  const frame = byId("face-frame"), [y1, y2, x1, x2] = EDGES.map((edge) => Number(field(edge).value));
  frame.hidden = !upload || !(y1 < y2 && x1 < x2);
  if (!frame.hidden) {
    const share = (length, whole) => `${100 * length / whole}%`;
    frame.style.top = share(y1, upload.height);
    frame.style.height = share(y2 - y1, upload.height);
    frame.style.left = share(x1, upload.width);
    frame.style.width = share(x2 - x1, upload.width);
  }
  changed();
}

function place(event) {
  const area = byId("face-picture").getBoundingClientRect();
  const within = (share) => Math.min(1, Math.max(0, share));
  return { x: Math.round(within((event.clientX - area.left) / area.width) * upload.width),
           y: Math.round(within((event.clientY - area.top) / area.height) * upload.height) };
}

function stretch(event) {
  if (!from) return;
  const to = place(event);
  set([Math.min(from.y, to.y), Math.max(from.y, to.y), Math.min(from.x, to.x), Math.max(from.x, to.x)].join(","));
}

export function start(whenChanged) {
  changed = whenChanged;
  const area = byId("face-area");
  area.addEventListener("pointerdown", (event) => {
    if (area.classList.contains("off") || event.button) return;
    event.preventDefault();
    area.setPointerCapture(event.pointerId);
    from = place(event);
  });
  area.addEventListener("pointermove", stretch);
  area.addEventListener("pointerup", (event) => { stretch(event); from = null; });
  area.addEventListener("pointercancel", () => { from = null; });
  for (const edge of EDGES) field(edge).addEventListener("input", draw);
  byId("face-none").addEventListener("change", () => changed());
  byId("face-clear").addEventListener("click", clear);
  byId("face-find").addEventListener("click", async (event) => {
    const told = byId("face-told"), asked = upload;
    event.target.disabled = true;
    tell(told, "Looking for the face ...");
    try {
      const found = await api.findFace(asked.id);
      if (asked !== upload) return;
      set(found.face_box);
      tell(told, "A face was found; correct the box if it is not right.");
    } catch (error) {
      tell(told, error.message, true);
    } finally {
      event.target.disabled = false;
    }
  });
}
