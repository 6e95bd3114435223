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
    this.outlines.hidden = !available.outlines;
    this.outlines.setAttribute("aria-pressed", String(settings.outlines));
  }

  showZoom(magnification) {
    this.zoom.textContent = percent(magnification);
  }
}
