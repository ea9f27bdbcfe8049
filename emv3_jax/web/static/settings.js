// The settings of a run: fields and help texts as the server describes them; what differs from the model's is sent.

import { byId, make } from "./dom.js";

let fields = [], changed = () => {};
const inputOf = (name) => byId(`setting-${name}`);

function control(field) {
  const id = `setting-${field.name}`, described = { id, "aria-describedby": `${id}-help` };
  if (field.kind === "switch" || field.kind === "choice") {
    const choices = field.kind === "switch" ? ["true", "false"] : field.choices;
    const words = { true: "yes", false: "no", "": "none" };
    const all = choices.includes(field.value) ? choices : [field.value, ...choices];
    return make("select", described, ...all.map((choice) => make("option", {
      value: choice, textContent: words[choice] ?? choice })));
  }
  if (field.kind === "text") return make("textarea", { ...described, rows: 2 });
  return make("input", { ...described, type: "number", step: field.kind === "whole" ? "1" : "any" });
}

function label(name) {
  const words = name.replace(".", ": ").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

export function start(whenChanged) {
  changed = whenChanged;
  byId("settings-reset").addEventListener("click", () => set({}));
}

export function describe(described) {
  const kept = values();
  fields = described;
  const [first, others] = [byId("settings-first"), byId("settings-others")];
  first.replaceChildren();
  others.replaceChildren();
  for (const field of fields) {
    const input = control(field);
    input.addEventListener("input", mark);
    (field.first ? first : others).append(make("div", { class: "field" },
      make("label", { htmlFor: input.id, textContent: label(field.name) }), input,
      make("span", { class: "help", id: `${input.id}-help`, textContent: field.help })));
  }
  set(kept);
}

export function values() {
  const found = {};
  for (const field of fields) {
    const value = inputOf(field.name)?.value ?? field.value;
    const emptied = value === "" && field.kind !== "text" && field.kind !== "choice";
    if (value !== field.value && !emptied) found[field.name] = value;
  }
  return found;
}

export function set(given) {
  for (const field of fields) inputOf(field.name).value = given[field.name] ?? field.value;
  mark();
}

function mark() {
  const found = values(), count = Object.keys(found).length;
  for (const field of fields) inputOf(field.name).parentElement.classList.toggle("changed", field.name in found);
  byId("settings-changed").textContent = count ? `(${count} changed)` : "";
  changed();
}
