/* Puts the viewer together: strip of all layers, tools, stage, read-out, legend. Entry point for Streamlit. */

const KEPT_OVERLAYS = 64;

class Viewer {
  constructor(parent) {
    this.settings = {};
    this.given = {};
    this.reports = {};
    this.overlays = new Map();
    this.sure = new Map();
    this.missing = new MissingBlobs();
    this.stage = new Stage({
      hover: (point) => this.hover(point),
      choose: (point) => this.choose(point),
      zoom: () => this.tools?.showZoom(this.stage.magnification()),
      divide: () => {},
      toggle: () => this.set({ opacity: this.settings.opacity > 0 ? 0 : (this.lastOpacity ?? 0.55) }),
    });
    this.readout = new Readout();
    this.legend = new Legend({
      change: (hidden) => this.set({ hidden: [...hidden].sort((a, b) => a - b) }),
      focus: (k) => this.focus(k),
    });
    this.tools = new Tools(this);
    this.strip = new Strip((index) => this.activate(index));
    this.note = element("div", { class: "note", role: "status" }, "Loading the picture …");
    this.stage.node.append(this.note);
    this.node = element("div", { class: "lag viewer" }, this.strip.node, this.tools.node, this.legend.node,
      element("div", { class: "body" }, this.stage.node,
        element("aside", { class: "panel" }, this.readout.node)));
    parent.append(this.node);
  }

  destroy() {
    this.stage.destroy();
    clearTimeout(this.reportTimer);
    blobStore().release(this);
    this.node.remove();
  }

  // ------------------------------------------------------------------ from the server

  async update({ data, setTriggerValue, setStateValue }) {
    this.send = { setTriggerValue, setStateValue };
    const props = openPayload(data);
    this.version = (this.version ?? 0) + 1;
    const version = this.version;
    const names = this.blobsOf(props);
    const missing = blobStore().hold(this, names);
    if (missing.length) return this.missing.request(missing, setTriggerValue);
    // Without waiting where everything is decoded already: scrubbing must not flicker.
    if (!blobStore().settled(names)) await blobStore().ready(names).catch((error) => this.fail(error));
    if (version === this.version && blobStore().settled(names)) this.accept(props);
  }

  fail(error) {
    console.error("viewer: a picture could not be decoded", error);
    this.note.textContent = "This picture could not be decoded.";
    this.note.hidden = false;
  }

  blobsOf(props) {
    const maps = props.layers.flatMap((layer) => [layer.labels, layer.rgba, layer.values?.name, layer.grid?.name]);
    return [props.image, ...maps].filter((name) => name != null);
  }

  accept(props) {
    const samePicture = this.props?.image === props.image;
    this.props = props;
    this.size = props.size;
    this.image = blobStore().value(props.image);
    this.layers = props.layers.map((layer) => this.decoded(layer));
    this.take(props.settings);
    if (this.settings.active >= this.layers.length) this.settings.active = props.settings.active;
    this.node.style.setProperty("--height", `${props.height}px`);
    this.describe();
    this.readout.build(this.layers, props.palette, props.names);
    this.legend.build(present(this.layers.map((layer) => layer.map).filter(Boolean)), props.palette, props.names);
    this.strip.build(props.strip ? this.layers : [], this.size);
    this.note.hidden = true;
    this.render(samePicture);
    this.read(samePicture ? this.stage.cursor : null);
  }

  /* The server's value wins where it is new: neither the one it gave before, nor a report of ours that has come back,
     since the user may have gone on in the meantime. */
  take(given) {
    for (const [name, value] of Object.entries(given)) {
      const text = JSON.stringify(value);
      if (text === JSON.stringify(this.given[name])) continue;
      const reports = this.reports[name] ?? [];
      const echo = reports.indexOf(text);
      reports.splice(0, echo < 0 ? reports.length : echo + 1);
      if (echo < 0) this.settings[name] = value;
    }
    this.given = given;
  }

  decoded(layer) {
    const value = (name) => (name == null ? null : blobStore().value(name));
    const array = (map) => (map ? { ...map, values: value(map.name) } : null);
    return { ...layer, map: value(layer.labels), picture: value(layer.rgba), values: array(layer.values), grid: array(layer.grid) };
  }

  describe() {
    const { title } = this.props;
    this.stage.node.setAttribute("aria-label", `${title || "Picture"}. Arrow keys move the pixel that is read out, `
      + "Enter chooses it, plus and minus zoom, 0 shows the whole picture, O switches the overlay off and on.");
  }

  // ------------------------------------------------------------------ settings

  set(changes) {
    if (changes.opacity === 0) this.lastOpacity = this.settings.opacity;
    Object.assign(this.settings, changes);
    this.render(true);
    this.report();
  }

  report() {
    if (!this.props.report) return;
    clearTimeout(this.reportTimer);
    this.reportTimer = setTimeout(() => {
      const { opacity, threshold, hidden, outlines, mode, split } = this.settings;
      const view = { opacity, threshold, hidden, outlines, mode, split };
      for (const [name, value] of Object.entries(view)) {
        this.reports[name] = [...(this.reports[name] ?? []), JSON.stringify(value)].slice(-8);
      }
      this.send.setStateValue("view", view);
    }, 400);
  }

  activate(index) {
    if (!this.layers) return;
    this.settings.active = index;
    this.render(true);
    const [x, y] = this.settings.marker ?? [0, 0];
    this.send.setTriggerValue("choose", { kind: "layer", x, y, layer: index });
  }

  choose(point) {
    this.settings.marker = [point.x, point.y];
    const layer = point.pane && this.settings.second != null ? this.settings.second : this.settings.active;
    this.render(true);
    this.read(this.stage.cursor);
    this.send.setTriggerValue("choose", { kind: "click", x: point.x, y: point.y, layer });
  }

  focus(k) {
    this.focused = k;
    this.render(true);
  }

  // ------------------------------------------------------------------ drawing

  render(keepView) {
    if (!this.props) return;
    const { active, second, split, opacity, outlines, hidden } = this.settings;
    const sides = [this.side(active), second != null && second !== active ? this.side(second) : null].filter(Boolean);
    const marker = this.settings.marker && { x: this.settings.marker[0], y: this.settings.marker[1] };
    this.stage.show({ size: this.size, image: this.image, sides, split, opacity, outlines, marker }, keepView);
    this.strip.show(this.image, this.layers.map((_, i) => this.overlay(i)), this.settings);
    this.legend.show(hidden);
    this.readout.mark(active, second);
    this.tools.show(this.settings, {
      mode: this.props.truth != null,
      threshold: this.layers.some((layer) => layer.grid && layer.map),
      split: sides.length > 1,
    });
  }

  side(index) {
    const overlay = this.overlay(index);
    const layer = this.layers[index];
    const name = layer ? [layer.name, layer.group].filter(Boolean).join(" · ") : "Picture";
    return { name, overlay: overlay?.canvas, outline: overlay?.outline };
  }

  /* The layer in its present colours: {canvas, outline()} or null. Kept, since one comes back to it. */
  overlay(index) {
    const layer = this.layers[index];
    if (!layer) return null;
    if (!layer.map && !layer.picture) return null;
    const { hidden, threshold, mode } = this.settings;
    const errors = mode === "errors" && this.props.truth != null && index !== this.props.truth;
    const parts = [layer.labels ?? layer.rgba, layer.grid?.name, hidden, layer.grid ? threshold : 0, errors, this.focused,
      this.props.truth != null && this.props.layers[this.props.truth].labels, this.props.palette];
    const key = JSON.stringify(parts);
    let found = this.overlays.get(key);
    this.overlays.delete(key);
    found ??= layer.map ? this.paintLabels(layer, errors) : this.paintPicture(layer);
    this.overlays.set(key, found);
    if (this.overlays.size > KEPT_OVERLAYS) this.overlays.delete(this.overlays.keys().next().value);
    return found;
  }

  paintLabels(layer, errors) {
    const [width, height] = this.size;
    const { hidden, threshold } = this.settings;
    const table = colourTable(this.props.palette, new Set(hidden), errors ? null : this.focused);
    const sure = layer.grid && threshold > 0 ? this.confidenceOf(layer) : null;
    const truth = errors && this.layers[this.props.truth].map;
    const words = truth
      ? paintErrors(layer.map, truth, table, this.props.colours, sure, threshold * 255)
      : paintClasses(layer.map, table, sure, threshold * 255);
    let path = null;
    return { canvas: canvasOf(words, width, height), outline: () => (path ??= outlinePath(words, width, height)) };
  }

  paintPicture(layer) {
    const words = new Uint32Array(layer.picture.slice().buffer);
    return { canvas: canvasOf(words, ...this.size), outline: null };
  }

  confidenceOf(layer) {
    const key = `${layer.labels} ${layer.grid.name}`;
    if (!this.sure.has(key)) {
      if (this.sure.size > KEPT_OVERLAYS) this.sure.clear();
      this.sure.set(key, confidence(layer.map, layer.grid, ...this.size));
    }
    return this.sure.get(key);
  }

  // ------------------------------------------------------------------ reading

  hover(point) {
    this.read(point);
    this.strip.point(point, this.size);
  }

  /* Shows pixel `point`; without one, the chosen pixel. */
  read(point) {
    if (!this.props) return;
    const { marker } = this.settings;
    const at = point ?? (marker && { x: marker[0], y: marker[1] });
    this.readout.show(at, at && this.layers.map((layer) => this.factsAt(layer, at)), !point);
  }

  factsAt(layer, { x, y }) {
    const [width, height] = this.size;
    const label = layer.map ? layer.map[y * width + x] : NONE;
    const top = layer.grid && probabilitiesAt(layer.grid, x, y, width, height)
      .map((p, k) => [k, p]).sort((a, b) => b[1] - a[1]).slice(0, 3);
    if (top && label !== NONE && !top.some(([k]) => k === label)) {
      top[2] = [label, probabilitiesAt(layer.grid, x, y, width, height)[label] ?? 0];
    }
    const number = layer.values && valueAt(layer.values, x, y, width, height);
    const value = number == null ? (layer.map ? "no label" : null) : `${number.toPrecision(3).replace("-", "−")} ${layer.unit}`.trim();
    return { label: label === NONE ? null : label, top, value };
  }

  // ------------------------------------------------------------------ saving

  /* What is drawn, at the picture's own grid enlarged by a whole number, with names and legend, as a PNG. */
  async save() {
    if (!this.props) return;
    const blob = await new Sheet(this).blob();
    const link = element("a", { href: URL.createObjectURL(blob), download: `${this.props.filename}.png` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  enlarge() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.node.requestFullscreen?.().catch(() => {});
  }
}

/* The row of small pictures: the picture itself and every layer, the pixel under the pointer marked in all of them. */
class Strip {
  constructor(choose) {
    this.choose = choose;
    this.node = element("div", { class: "strip", role: "toolbar", "aria-label": "All steps at a glance", hidden: true,
      onkeydown: (event) => this.key(event) });
    this.items = [];
  }

  build(layers, size) {
    const all = layers.length ? [{ name: "Picture", note: "" }, ...layers] : [];
    this.node.hidden = !all.length;
    const shape = JSON.stringify(all.map((layer) => layer.group ?? ""));
    if (this.shape !== shape) this.arrange(all);
    this.shape = shape;
    all.forEach((layer, i) => {
      this.items[i].name.textContent = layer.name;
      this.items[i].note.textContent = layer.note;
      this.items[i].canvas.style.aspectRatio = `${size[0]} / ${size[1]}`;
    });
  }

  /* A row of items for each group, under its name. */
  arrange(all) {
    this.items = all.map((_, i) => this.makeItem(i - 1));
    const groups = [];
    all.forEach(({ group = "" }, i) => {
      if (i === 0 || group !== groups.at(-1).name) groups.push({ name: group, items: [] });
      groups.at(-1).items.push(this.items[i].node);
    });
    const named = groups.some((group) => group.name);
    this.node.replaceChildren(...groups.map(({ name, items }) => {
      const node = element("div", { class: "group" },
        named ? element("div", { class: "group-name", title: name }, name || "\u00a0") : null,
        element("div", { class: "items" }, ...items));
      node.style.setProperty("--count", items.length);
      return node;
    }));
  }

  makeItem(index) {
    const item = {
      index,
      canvas: element("canvas", { "aria-hidden": "true" }),
      dot: element("span", { class: "dot", hidden: true }),
      name: element("span", { class: "name" }),
      note: element("span", { class: "soft" }),
    };
    item.node = element("button", { type: "button", class: "item", onclick: () => this.choose(index) },
      element("span", { class: "frame" }, item.canvas, item.dot), element("span", { class: "caption" }, item.name, item.note));
    return item;
  }

  show(image, overlays, { active, second, opacity }) {
    for (const item of this.items) {
      item.node.setAttribute("aria-pressed", String(item.index === active));
      item.node.classList.toggle("second", item.index === second);
      item.node.tabIndex = item.index === active ? 0 : -1;
      this.draw(item.canvas, image, overlays[item.index]?.canvas, opacity);
    }
  }

  draw(canvas, image, overlay, opacity) {
    const width = Math.round(160 * Math.max(1, window.devicePixelRatio));
    const height = Math.max(1, Math.round((width * image.height) / image.width));
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.globalAlpha = 1;
    context.drawImage(image, 0, 0, width, height);
    if (!overlay) return;
    context.globalAlpha = opacity;
    context.drawImage(overlay, 0, 0, width, height);
  }

  point(point, [width, height]) {
    for (const { dot } of this.items) {
      dot.hidden = !point;
      if (!point) continue;
      dot.style.left = `${((point.x + 0.5) / width) * 100}%`;
      dot.style.top = `${((point.y + 0.5) / height) * 100}%`;
    }
  }

  key(event) {
    const to = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const at = this.items.findIndex((item) => item.node === event.target);
    if (to === undefined || at < 0) return;
    event.preventDefault();
    event.stopPropagation();
    const item = this.items[clamp(at + to, 0, this.items.length - 1)];
    item.node.focus();
    this.choose(item.index);
  }
}

/* The row of controls. It shows the viewer's settings and changes them; it owns none. */
class Tools {
  constructor(viewer) {
    this.opacity = this.slider("Overlay", (value) => viewer.set({ opacity: value }));
    this.threshold = this.slider("Confidence ≥", (value) => viewer.set({ threshold: value }), 0.99);
    this.outlines = this.button("outline", "Outlines", () => viewer.set({ outlines: !viewer.settings.outlines }));
    this.mode = this.choice("Colours", [["classes", "Classes"], ["errors", "Right / wrong"]], (mode) => viewer.set({ mode }));
    this.split = this.choice("Comparison", [["swipe", "Swipe"], ["side", "Side by side"]], (split) => viewer.set({ split }));
    this.zoom = element("button", { type: "button", class: "zoom", title: "Whole picture (0)", onclick: () => viewer.props && viewer.stage.reset() });
    this.node = element("div", { class: "tools" },
      this.opacity.node, this.threshold.node, this.mode.node, this.split.node, this.outlines,
      element("div", { class: "view" },
        this.button("minus", "Zoom out (−)", () => viewer.stage.zoomBy(1 / 1.4)), this.zoom,
        this.button("plus", "Zoom in (+)", () => viewer.stage.zoomBy(1.4)),
        this.button("save", "Save as PNG what is drawn", () => viewer.save()),
        this.button("full", "Full screen", () => viewer.enlarge())));
  }

  button(name, title, act) {
    return element("button", { type: "button", class: "tool", title, "aria-label": title, onclick: act }, icon(name));
  }

  slider(title, change, max = 1) {
    const value = element("output", {});
    const input = element("input", { type: "range", min: 0, max, step: 0.01, "aria-label": title,
      oninput: () => change(Number(input.value)) });
    return { node: element("label", { class: "slider" }, element("span", { class: "soft" }, title), input, value), input, value };
  }

  choice(title, options, change) {
    const buttons = options.map(([value, text]) =>
      element("button", { type: "button", "data-value": value, onclick: () => change(value) }, text));
    return { node: element("div", { class: "choice", role: "group", "aria-label": title }, ...buttons), buttons };
  }

  show(settings, available) {
    for (const name of ["opacity", "threshold"]) {
      const { input, value } = this[name];
      input.value = settings[name];
      input.style.setProperty("--at", `${(settings[name] / input.max) * 100}%`);
      value.textContent = percent(settings[name]);
      input.setAttribute("aria-valuetext", percent(settings[name]));
    }
    this.threshold.node.hidden = !available.threshold;
    for (const name of ["mode", "split"]) {
      this[name].node.hidden = !available[name];
      for (const button of this[name].buttons) button.setAttribute("aria-pressed", String(button.dataset.value === settings[name]));
    }
    this.outlines.setAttribute("aria-pressed", String(settings.outlines));
  }

  showZoom(magnification) {
    this.zoom.textContent = percent(magnification);
  }
}

/* A picture for a paper: the sides that are on the stage, their names, and the classes in them. */
class Sheet {
  constructor(viewer) {
    this.viewer = viewer;
    const [W, H] = viewer.size;
    const { active, second, split } = viewer.settings;
    this.sides = viewer.stage.scene.sides;
    this.columns = split === "side" ? this.sides.length : 1;
    this.scale = Math.max(1, Math.round(1200 / W / this.columns));
    this.width = W * this.scale;
    this.height = H * this.scale;
    this.unit = Math.max(14, Math.round(this.width / 48));
    this.gap = this.unit;
    this.entries = this.classes([active, second]);
  }

  /* Only what is drawn: the classes of the shown layers that are switched on. */
  classes(indices) {
    const { layers, settings, props } = this.viewer;
    if (settings.mode === "errors" && props.truth != null) {
      return [["right", rgb(props.colours.right)], ["wrong", rgb(props.colours.wrong)]];
    }
    const maps = indices.map((i) => layers[i]?.map).filter(Boolean);
    return present(maps).filter((k) => !settings.hidden.includes(k)).map((k) => [props.names[k], rgb(props.palette[k])]);
  }

  async blob() {
    const total = this.columns * this.width + (this.columns - 1) * this.gap;
    const lines = this.layout(total);
    const canvas = new OffscreenCanvas(total, Math.round(this.unit * 2 + this.height + lines.length * this.unit * 1.6 + this.unit));
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    this.drawSides(context);
    this.drawLegend(context, lines);
    return canvas.convertToBlob({ type: "image/png" });
  }

  font(context) {
    context.font = `${this.unit}px sans-serif`;
    context.textBaseline = "middle";
  }

  drawSides(context) {
    this.font(context);
    const top = this.unit * 2;
    const cut = Math.round(this.viewer.stage.fraction * this.width);
    this.sides.forEach((side, i) => {
      const swipe = this.sides.length > 1 && this.columns === 1;
      const x = this.columns > 1 ? i * (this.width + this.gap) : 0;
      const from = swipe && i === 1 ? cut : 0;
      const to = swipe && i === 0 ? cut : this.width;
      context.save();
      context.beginPath();
      context.rect(x + from, top, to - from, this.height);
      context.clip();
      this.drawSide(context, side, x, top);
      context.restore();
      context.fillStyle = "black";
      context.textAlign = swipe && i === 1 ? "right" : "left";
      context.fillText(side.name, swipe && i === 1 ? this.width : x, this.unit);
    });
    context.textAlign = "left";
  }

  drawSide(context, side, x, y) {
    const { image, settings } = this.viewer;
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = true;
    context.drawImage(image, x, y, this.width, this.height);
    context.imageSmoothingEnabled = false;
    context.globalAlpha = settings.opacity;
    if (side.overlay) context.drawImage(side.overlay, x, y, this.width, this.height);
    context.globalAlpha = 1;
    if (!settings.outlines || !side.outline) return;
    context.save();
    context.setTransform(this.scale, 0, 0, this.scale, x, y);
    context.lineWidth = Math.max(1, this.unit / 8) / this.scale;
    context.strokeStyle = "white";
    context.stroke(side.outline());
    context.restore();
  }

  /* Breaks the legend into lines of at most `width`: [[text, colour, x], …] for each. */
  layout(width) {
    const measure = new OffscreenCanvas(1, 1).getContext("2d");
    this.font(measure);
    const lines = [];
    let x = Infinity;
    for (const [text, colour] of this.entries) {
      const room = this.unit * 2.6 + measure.measureText(text).width;
      if (x + room > width) {
        lines.push([]);
        x = 0;
      }
      lines.at(-1).push([text, colour, x]);
      x += room;
    }
    return lines;
  }

  drawLegend(context, lines) {
    this.font(context);
    lines.forEach((line, row) => {
      const y = this.unit * 2 + this.height + this.unit * (1.3 + 1.6 * row);
      for (const [text, colour, x] of line) {
        context.fillStyle = colour;
        context.fillRect(x, y - this.unit / 2, this.unit, this.unit);
        context.fillStyle = "black";
        context.fillText(text, x + this.unit * 1.5, y);
      }
    });
  }
}

const viewers = new WeakMap();

export default function (component) {
  const parent = component.parentElement;
  if (!viewers.has(parent)) viewers.set(parent, new Viewer(parent));
  const viewer = viewers.get(parent);
  viewer.update(component);
  return () => {
    viewers.delete(parent);
    viewer.destroy();
  };
}
