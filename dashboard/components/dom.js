/* Building blocks: elements without innerHTML (names come from outside), icons, small arithmetic. */

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, String(value));
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

const ICONS = {
  plus: "M8 3.5v9M3.5 8h9",
  minus: "M3.5 8h9",
  fit: "M3 6V3h3M10 3h3v3M13 10v3h-3M6 13H3v-3",
  save: "M8 2.5v7.5M4.8 7 8 10.2 11.2 7M3 13h10",
  full: "M9.5 3H13v3.5M13 3 9 7M6.5 13H3V9.5M3 13l4-4",
  outline: "M4 5.5 8 3l4.5 3-1 5.5-5 1.5L3 10z",
  swipe: "M8 2.5v11M5 5.5 2.5 8 5 10.5M11 5.5 13.5 8 11 10.5",
  side: "M2.5 3.5h4.6v9H2.5zM8.9 3.5h4.6v9H8.9z",
  left: "M10 3.5 5.5 8l4.5 4.5",
  right: "M6 3.5 10.5 8 6 12.5",
};

function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" }))
    svg.setAttribute(key, value);
  for (const [key, value] of Object.entries({
    d: ICONS[name], fill: "none", stroke: "currentColor", "stroke-width": 1.4,
    "stroke-linecap": "round", "stroke-linejoin": "round",
  })) path.setAttribute(key, value);
  svg.append(path);
  return svg;
}

function clamp(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

function percent(fraction) {
  return `${Math.round(fraction * 100)} %`;
}

function rgb(colour) {
  return `rgb(${colour[0]} ${colour[1]} ${colour[2]})`;
}

function calm() {
  return window.matchMedia("(prefers-reduced-motion: reduce)").matches;
}
