// The history: clips with their settings, which can be taken over, compared, downloaded, deleted.

import * as api from "./api.js";
import { byId, make } from "./dom.js";

const chosen = [];
let cards = new Map(), acts = {};

const STATES = { failed: "failed", lost: "failed: its sampler was lost", stopped: "cancelled", done: "" };

function button(words, name, act, kind = "") {
  return make("button", { type: "button", textContent: words, "aria-label": `${words}: ${name}`, class: kind, on: { click: act } });
}

function details(clip) {
  const parts = [clip.seed !== undefined && `seed ${clip.seed}`, clip.frames && `${clip.frames} frames`,
    clip.width && `${clip.width}x${clip.height}`, clip.steps && `${clip.steps} steps`, clip.model,
    clip.total_seconds && `${Math.round(clip.total_seconds)} s`];
  return parts.filter(Boolean).join(", ");
}

function card(clip) {
  const changed = Object.entries(clip.settings ?? {}).map(([name, value]) => `${name}=${value}`).join(", ");
  const item = make("li", { class: "clip" },
    make("h3", {}, clip.name, make("span", { class: "quiet", textContent: STATES[clip.status] ?? clip.status })),
    clip.video ? make("video", { src: api.videoUrl(clip.name), controls: true, preload: "metadata", playsInline: true,
      "aria-label": `Clip ${clip.name}` }) : null,
    make("p", { class: "quiet", textContent: details(clip) }),
    make("p", { class: "words", textContent: clip.request?.prompt ?? "" }),
    changed ? make("p", { class: "quiet", textContent: changed }) : null,
    clip.reason && clip.status !== "stopped" ? make("p", { class: "told wrong", textContent: clip.reason }) : null);
  const row = make("div", { class: "row" });
  if (clip.video) {
    row.append(make("a", { class: "button", href: api.videoUrl(clip.name), download: `${clip.name}.mp4`,
      textContent: "Download", "aria-label": `Download ${clip.name}` }));
    const box = make("input", { type: "checkbox", checked: chosen.includes(clip.name), "aria-label": `Compare ${clip.name}`,
      on: { change: () => choose(clip.name, box.checked) } });
    row.append(make("label", { class: "tick" }, box, "Compare"));
  } else if (clip.uploads) {
    row.append(button("Try again", clip.name, () => acts.retry(clip)));
  }
  if (Object.keys(clip.request ?? {}).length) row.append(button("Take the settings over", clip.name, () => acts.take(clip)));
  if (clip.video && clip.uploads?.length) row.append(button("Another seed", clip.name, () => acts.again(clip)));
  row.append(button("Delete", clip.name, () => acts.remove(clip), "danger"));
  item.append(row);
  return item;
}

export function show(clips) {
  const list = byId("history"), kept = new Map();
  byId("history-empty").hidden = clips.length > 0;
  clips.forEach((clip, index) => {
    const text = JSON.stringify(clip), before = cards.get(clip.name);
    const found = before?.text === text ? before : { text, item: card(clip), clip };
    if (before && before !== found) before.item.remove();
    kept.set(clip.name, found);
    if (list.children[index] !== found.item) list.insertBefore(found.item, list.children[index] ?? null);
  });
  for (const [name, { item }] of cards) if (!kept.has(name)) item.remove();
  cards = kept;
  for (const name of [...chosen]) if (!cards.get(name)?.clip.video) choose(name, false);
}

function choose(name, on) {
  const index = chosen.indexOf(name);
  if (on && index < 0) chosen.push(name);
  if (!on && index >= 0) chosen.splice(index, 1);
  while (chosen.length > 2) chosen.shift();
  for (const [other, { item }] of cards) {
    const box = item.querySelector("input[type=checkbox]");
    if (box) box.checked = chosen.includes(other);
  }
  compare();
}

function compare() {
  const area = byId("compare");
  area.hidden = chosen.length < 2;
  byId("compare-videos").replaceChildren(...(area.hidden ? [] : chosen.map((name) => {
    const { clip } = cards.get(name);
    return make("figure", {}, make("video", { src: api.videoUrl(name), controls: true, preload: "auto", playsInline: true,
      "aria-label": `Clip ${name}` }), make("figcaption", { class: "quiet", textContent: `${name}, seed ${clip.seed}` }));
  })));
}

export function start(given) {
  acts = given;
  byId("compare-play").addEventListener("click", () => {
    byId("compare-videos").querySelectorAll("video").forEach((video, index) => {
      video.muted = index > 0;  // both voices are the same
      video.currentTime = 0;
      video.play();
    });
  });
  byId("compare-close").addEventListener("click", () => [...chosen].forEach((name) => choose(name, false)));
}
