"use strict";
// The page of a report. It reads no file but samples/<number>.js, each when its image is opened.
const report = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const two = report.names.length === 2;
const hasTruth = report.results.length > 0;
const NONE = 255;
const MARKS = { wrong: [255, 0, 80], fixed: [0, 114, 255], broken: [255, 140, 0], both: [150, 20, 60] };
const BOUNDARY = 5; // pixels on either side of a boundary in the ground truth

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "style" && name !== "list") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(2));
const known = (value) => value !== null && value !== undefined;

function change(first, second) {
  if (!known(first) || !known(second)) return make("span", {}, "–");
  const points = 100 * (second - first);
  const text = (points >= 0 ? "+" : "−") + Math.abs(points).toFixed(2);
  return make("span", { className: points > 0.004 ? "good" : points < -0.004 ? "bad" : "" }, text);
}
