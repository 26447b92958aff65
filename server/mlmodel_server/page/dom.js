"use strict";
// Elements and formats. Text of the server or the user is never parsed as HTML.

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
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

/** Replaces the children of an element, unless `key` is the same as the last time. */
const lastKeys = new WeakMap();
const replace = (target, key, make) => {
  if (lastKeys.get(target) === key) return;
  lastKeys.set(target, key);
  target.replaceChildren(...make());
};

const setText = (target, text) => {
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

/** Returns a bar of the width `share` of its track; it starts at `from`. */
const bar = (share, attributes = {}, from = 0) => {
  const made = element("i", attributes);
  made.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  if (from) made.style.left = `${from * 100}%`;
  return made;
};
