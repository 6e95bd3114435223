/* Heat maps by keyboard: each can be reached with Tab, arrow keys move over its cells, what a cell says is read out,
   Enter is a click on it. Plotly offers none of this. */

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
const HOW = "Heat map. Arrow keys move over its cells, Enter chooses one.";

class CellKeys {
  constructor(parent) {
    this.told = element("div", { class: "told", "aria-live": "polite", role: "status" });
    this.cursor = element("div", { class: "lag-cell-cursor", "aria-hidden": "true" });
    parent.append(this.told);
    Object.assign(this.cursor.style, {
      position: "absolute", boxSizing: "border-box", border: "2px solid currentColor", outline: "2px solid #fff",
      outlineOffset: "-4px", pointerEvents: "none", zIndex: 5,
    });
    this.onKey = (event) => this.key(event);
    this.onBlur = () => this.cursor.remove();
    document.addEventListener("keydown", this.onKey, true);
    document.addEventListener("focusout", this.onBlur);
    this.observer = new MutationObserver(() => this.later());
    this.observer.observe(document.body, { childList: true, subtree: true });
    this.later();
  }

  destroy() {
    this.observer.disconnect();
    clearTimeout(this.timer);
    document.removeEventListener("keydown", this.onKey, true);
    document.removeEventListener("focusout", this.onBlur);
    this.cursor.remove();
    this.told.remove();
  }

  later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => document.querySelectorAll(".js-plotly-plot").forEach((plot) => this.open(plot)), 200);
  }

  /* Puts a heat map into the tab order; another figure that took its place out of it. */
  open(plot) {
    const map = heatMap(plot);
    if (!map === !plot.hasAttribute("tabindex")) return;
    if (!map) return plot.removeAttribute("tabindex");
    const name = plot.closest("[aria-label]")?.getAttribute("aria-label");
    for (const [key, value] of Object.entries({ tabindex: 0, role: "application", "aria-label": `${name ? `${name}. ` : ""}${HOW}` }))
      plot.setAttribute(key, value);
  }

  key(event) {
    const plot = event.target, map = plot.classList?.contains("js-plotly-plot") && heatMap(plot);
    if (!map || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = map.z.length, columns = map.z[0].length, by = STEPS[event.key];
    const at = this.at?.plot === plot && this.cursor.isConnected ? this.at : null;
    if (by) {
      const r = at ? clamp(at.r + by[0], 0, rows - 1) : 0, c = at ? clamp(at.c + by[1], 0, columns - 1) : 0;
      this.show(plot, map, r, c);
    } else if (event.key === "Home" && at) this.show(plot, map, at.r, 0);
    else if (event.key === "End" && at) this.show(plot, map, at.r, columns - 1);
    else if (event.key === "Enter" && at) press(plot, map, at.r, at.c);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  show(plot, map, r, c) {
    this.at = { plot, r, c };
    const box = boxOf(plot, map, r, c);
    Object.assign(this.cursor.style, { left: `${box.left}px`, top: `${box.top}px`, width: `${box.width}px`, height: `${box.height}px` });
    plot.append(this.cursor);
    this.told.textContent = words(plot, map, r, c);
  }
}

function heatMap(plot) {
  return plot._fullData?.find((trace) => trace.type === "heatmap" && trace.z?.length && trace.z[0]?.length);
}

/* Of a cell, in CSS pixels of the plot. Plotly's axes know where a coordinate lies. */
function boxOf(plot, map, r, c) {
  const { xaxis, yaxis } = plot._fullLayout, x = map.x?.[c] ?? c, y = map.y?.[r] ?? r;
  const [left, right] = [x - 0.5, x + 0.5].map((v) => xaxis._offset + xaxis.l2p(v)).sort((a, b) => a - b);
  const [top, bottom] = [y - 0.5, y + 0.5].map((v) => yaxis._offset + yaxis.l2p(v)).sort((a, b) => a - b);
  return { left, top, width: right - left, height: bottom - top };
}

/* What the cell's tip says, on one line; without a tip its row, column and value. */
function words(plot, map, r, c) {
  const tip = map.customdata?.[r]?.[c];
  if (typeof tip === "string" && tip) return plain(tip);
  const { xaxis, yaxis } = plot._fullLayout;
  const label = (axis, value) => plain(axis.ticktext?.[axis.tickvals?.indexOf(value)] ?? value);
  const value = map.z[r][c];
  return `${label(yaxis, map.y?.[r] ?? r)}, ${label(xaxis, map.x?.[c] ?? c)}: ${value == null ? "no value" : Number(value).toPrecision(3)}`;
}

function plain(text) {
  return String(text).replace(/<br\s*\/?>/gi, " ").replace(/<[^>]*>/g, "").replace(/&lt;/g, "<").replace(/&gt;/g, ">")
    .replace(/&amp;/g, "&").replace(/[■□]\s*/g, "").trim();
}

/* Plotly takes a click as a pointer that moves there, goes down and comes up. */
function press(plot, map, r, c) {
  const layer = plot.querySelector(".nsewdrag"), box = boxOf(plot, map, r, c), frame = plot.getBoundingClientRect();
  const where = { clientX: frame.left + box.left + box.width / 2, clientY: frame.top + box.top + box.height / 2 };
  const send = (kind) => layer?.dispatchEvent(new MouseEvent(kind, { bubbles: true, cancelable: true, view: window, ...where }));
  send("mousemove");
  setTimeout(() => ["mousedown", "mouseup", "click"].forEach(send), 60); // after Plotly has found what lies there
}

export default (component) => mount(CellKeys, component);
