"use strict";
// Elements and words. Whatever a server or a person says becomes text: nothing is ever parsed as HTML.

const $ = (id) => document.getElementById(id);

const fill = (made, attributes, children) => {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
};

const element = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const drawn = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Puts `children` into the place of all that an element holds, unless `key` is what it was the last time. */
const keyed = new WeakMap();
const replace = (target, key, make) => {
  if (keyed.get(target) === key) return;
  keyed.set(target, key);
  target.replaceChildren(...make());
};

const say = (target, text) => {
  target.textContent = text;
  target.hidden = !text;
};

const number = (value, digits = 4) =>
  Number.isFinite(value) ? String(Number(value.toPrecision(digits))) : "–";
const count = (value) => Math.round(value).toLocaleString("en");
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

const duration = (seconds) => {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.001) return `${number(seconds * 1e6, 2)} µs`;
  return seconds < 1 ? `${number(seconds * 1e3, 3)} ms` : `${number(seconds, 3)} s`;
};

const plural = (many, one) => `${count(many)} ${one}${many === 1 ? "" : "s"}`;

/** A bar as wide as this share of its track; `from` is where it begins. */
const bar = (share, attributes = {}, from = 0) => {
  const made = element("i", attributes);
  made.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  if (from) made.style.left = `${from * 100}%`;
  return made;
};
