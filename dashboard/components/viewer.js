/* Puts the viewer together: strip of all layers, tools, stage, read-out, legend. Entry point for Streamlit. */

const KEPT_OVERLAYS = 64;
const PLAYED_STEP = 1400; // milliseconds for which each step is seen
const OF_STEP = new Set(["active", "second"]); // settings that follow the step

class Viewer {
  constructor(parent) {
    this.settings = {};
    this.given = {};
    this.reports = {};
    this.overlays = new Map();
    this.sure = new Map();
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
    this.onStep = (event) => this.follow(event.detail);
    this.onLeave = () => this.reportTimer && this.reportNow();
    document.addEventListener("lag:step", this.onStep);
    document.addEventListener("lag:leave", this.onLeave);
    this.node = element("div", { class: "lag viewer" },
      element("div", { class: "body" }, this.stage.node, element("aside", { class: "panel" }, this.readout.node)),
      this.legend.node, this.strip.node, this.tools.node);
    this.missing = new MissingBlobs(this.node, () => this.update(this.received));
    parent.append(this.node);
  }

  destroy() {
    this.stage.destroy();
    document.removeEventListener("lag:step", this.onStep);
    document.removeEventListener("lag:leave", this.onLeave);
    clearTimeout(this.reportTimer);
    this.missing.stop();
    blobStore().release(this);
    this.node.remove();
  }

  // ------------------------------------------------------------------ from the server

  async update(received) {
    this.received = received;
    const { data, setTriggerValue, setStateValue } = received;
    this.send = {
      setTriggerValue: (name, value) => tell(this.node, () => setTriggerValue(name, value)),
      setStateValue: (name, value) => tell(this.node, () => setStateValue(name, value)),
    };
    const props = withNothing(openPayload(data));
    this.version = (this.version ?? 0) + 1;
    const version = this.version;
    const names = this.blobsOf(props);
    const missing = blobStore().hold(this, names);
    if (missing.length) return this.missing.request(missing, setTriggerValue);
    this.missing.found();
    // Without waiting where everything is decoded already: scrubbing must not flicker.
    if (!blobStore().settled(names)) await blobStore().ready(names).catch((error) => this.fail(error));
    if (version === this.version && blobStore().settled(names)) this.accept(props);
  }

  fail(error) {
    console.error("viewer: a picture could not be decoded", error);
    this.note.textContent = "This picture could not be decoded.";
    this.note.hidden = false;
    this.tellPainted();
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
    this.node.classList.toggle("plain", props.plain);
    this.stage.tallest = props.height;
    this.describe();
    this.readout.build(this.layers, props.palette, props.names);
    this.legend.build(present(this.layers.map((layer) => layer.map).filter(Boolean)), props.palette, props.names);
    this.strip.build(props.strip ? this.layers : [], this.size);
    this.note.hidden = true;
    this.render(samePicture);
    this.read(samePicture ? this.stage.cursor : null);
    if (props.play && !this.played) this.play();
    this.tellPainted();
  }

  /* Says in the page, when the frame is drawn, that a picture stands there: other parts wait for that (in_view.js). */
  tellPainted() {
    const name = Symbol.for("lag.painted");
    if (globalThis[name]) return;
    requestAnimationFrame(() => setTimeout(() => {
      globalThis[name] = true;
      document.dispatchEvent(new CustomEvent("lag:painted"));
    }));
  }

  /* Goes once from the first step to the active one, unless the reader asked for less motion or chooses a step. */
  play() {
    this.played = true;
    const last = this.layers[this.settings.active]?.step;
    if (!last || matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    const choices = chosenStep().sent;
    const show = (step) => {
      if (chosenStep().sent !== choices || !this.node.isConnected) return;
      this.follow(step);
      document.dispatchEvent(new CustomEvent("lag:shown", { detail: step })); // the bars beside it play along
      if (step < last) setTimeout(() => show(step + 1), PLAYED_STEP);
    };
    show(0);
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
      if (echo < 0 && !(OF_STEP.has(name) && serverIsBehind())) this.settings[name] = value;
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
    this.reportTimer = setTimeout(() => this.reportNow(), 400);
  }

  reportNow() {
    clearTimeout(this.reportTimer);
    this.reportTimer = null;
    const { opacity, threshold, hidden, outlines, mode, split } = this.settings;
    const view = { opacity, threshold, hidden, outlines, mode, split };
    for (const [name, value] of Object.entries(view)) {
      this.reports[name] = [...(this.reports[name] ?? []), JSON.stringify(value)].slice(-8);
    }
    this.send.setStateValue("view", view);
  }

  activate(index) {
    if (!this.layers) return;
    this.settings.active = index;
    this.render(true);
    const [x, y] = this.settings.marker ?? [0, 0];
    this.send.setTriggerValue("choose", { kind: "layer", x, y, layer: index });
  }

  /* Shows the layer of a step before the server has answered, and beside it that of the compared run. */
  follow(step) {
    const shown = this.layers?.[this.settings.active], beside = this.layers?.[this.settings.second];
    if (shown?.step == null) return;
    const place = (like) => this.layers.findIndex((layer) => layer.step === step && layer.group === like.group);
    if (place(shown) < 0) return;
    if (beside?.step === shown.step && beside.group !== shown.group && place(beside) >= 0) this.settings.second = place(beside);
    this.settings.active = place(shown);
    this.render(true);
    this.read(this.stage.cursor);
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
    this.legend.judge(this.judging() ? this.verdicts() : []);
    this.readout.mark(active, second);
    this.tools.show(this.settings, {
      mode: this.props.truth != null,
      threshold: this.layers.some((layer) => layer.grid && layer.map),
      split: sides.length > 1,
      outlines: this.layers.some((layer) => layer.map),
    });
  }

  judging() {
    return this.settings.mode === "errors" && this.props.truth != null;
  }

  /* What the colours of right and wrong say: [[words, colour], …]. */
  verdicts() {
    const { colours } = this.props;
    const found = [["right", colours.right], ["wrong", colours.wrong]];
    const truth = this.layers[this.props.truth].map;
    const later = this.layers.some((layer) => layer.known && present([truth]).some((k) => !layer.known.includes(k)));
    if (later) found.push(["not yet known", colours.notKnown]);
    return found;
  }

  side(index) {
    const overlay = this.overlay(index);
    const layer = this.layers[index];
    const name = layer ? [layer.name, layer.group, layer.pending].filter(Boolean).join(" · ") : "Picture";
    return { name, overlay: overlay?.canvas, outline: overlay?.outline };
  }

  /* The layer in its present colours: {canvas, outline()} or null. Kept, since one comes back to it. */
  overlay(index) {
    const layer = this.layers[index];
    if (!layer) return null;
    if (!layer.map && !layer.picture) return null;
    const { hidden, threshold } = this.settings;
    const errors = this.judging() && index !== this.props.truth;
    const parts = [layer.labels ?? layer.rgba, layer.grid?.name, hidden, layer.grid ? threshold : 0, errors, this.focused,
      this.props.truth != null && this.props.layers[this.props.truth].labels, errors && layer.known, layer.clear, this.props.palette];
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
    const clear = errors ? [] : layer.clear.filter((label) => label !== this.focused);
    const table = colourTable(this.props.palette, new Set([...hidden, ...clear]), errors ? null : this.focused);
    const sure = layer.grid && threshold > 0 ? this.confidenceOf(layer) : null;
    const truth = errors && this.layers[this.props.truth].map;
    const words = truth
      ? paintErrors(layer.map, truth, table, this.props.colours, sure, threshold * 255, layer.known, this.props.nothing.label)
      : paintClasses(layer.map, table, sure, threshold * 255);
    let path = null;
    return { canvas: canvasOf(words, width, height), outline: () => (path ??= outlinePath(words, width, height)) };
  }

  paintPicture(layer) {
    const words = new Uint32Array(layer.picture.slice().buffer);
    return { canvas: canvasOf(words, ...this.size), outline: null };
  }

  confidenceOf(layer) {
    const key = `${layer.labels} ${layer.grid.name} ${this.props.nothing.least}`;
    if (!this.sure.has(key)) {
      if (this.sure.size > KEPT_OVERLAYS) this.sure.clear();
      this.sure.set(key, confidence(layer.map, layer.grid, ...this.size, this.props.nothing));
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
    const chances = layer.grid && this.agreeing(probabilitiesAt(layer.grid, x, y, width, height), label, layer);
    const top = chances && chances.map((p, k) => [k, p]).sort((a, b) => b[1] - a[1]).slice(0, 3);
    if (top && label < chances.length && !top.some(([k]) => k === label)) top[2] = [label, chances[label]];
    const number = layer.values && valueAt(layer.values, x, y, width, height);
    const value = number == null ? (layer.map ? "no label" : (layer.pending ?? null)) : `${number.toPrecision(3).replace("-", "−")} ${layer.unit}`.trim();
    return { label: label === NONE ? null : label, top, value };
  }

  /* Probabilities from the coarse grid, held to what the label map says of them: none is above the bound where no class
     stands out, that of the pixel's own class is where one does. */
  agreeing(chances, label, layer) {
    const { nothing } = this.props;
    if (label === nothing.label) return chances.map((p) => Math.min(p, nothing.least));
    if (label >= chances.length || !layer.map || !this.doubts(layer)) return chances;
    return chances.map((p, k) => (k === label ? Math.max(p, nothing.least) : p));
  }

  /* Whether the layer has pixels for which no class stands out. */
  doubts(layer) {
    this.doubtful ??= new WeakMap();
    if (!this.doubtful.has(layer.map)) this.doubtful.set(layer.map, layer.map.includes(this.props.nothing.label));
    return this.doubtful.get(layer.map);
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

/* The name and colour of "none" among those of the classes, under its label. */
function withNothing(props) {
  const { label, name, colour } = props.nothing;
  props.names[label] = name;
  props.palette[label] = colour;
  return props;
}

export default (component) => mount(Viewer, component);
