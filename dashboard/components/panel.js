/* Around the stage: the read-out (what every step says about one pixel) and the legend. */

class Readout {
  constructor() {
    this.head = element("div", { class: "head" });
    this.rows = element("div", { class: "rows" });
    this.live = element("div", { class: "sr", "aria-live": "polite", role: "status" });
    this.node = element("section", { class: "readout", "aria-label": "Pixel read-out" }, this.head, this.rows, this.live);
    this.lines = [];
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(this.node);
  }

  /* layers: as in the scene. One line a layer, kept, so that nothing jumps while the pointer moves. */
  build(layers, palette, names) {
    this.palette = palette;
    this.names = names;
    this.lines = layers.map((layer) => this.makeLine(layer));
    this.rows.replaceChildren(...this.groups().map((lines) => this.makeGroup(lines)));
    this.fit();
  }

  /* The lines by run; a run stays together. */
  groups() {
    const groups = [];
    for (const line of this.lines) {
      const last = groups.at(-1);
      if (last && (last[0].layer.group || "") === (line.layer.group || "")) last.push(line);
      else groups.push([line]);
    }
    return groups;
  }

  makeGroup(lines) {
    const name = lines[0].layer.group;
    return element("div", { class: name ? "run" : "run unnamed" },
      ...(name ? [element("div", { class: "group-name", title: name }, name)] : []),
      element("div", { class: "lines" }, ...lines.map((line) => line.node)));
  }

  /* Beside the picture: closer lines where they do not all fit; what is left to scroll ends with a whole line. */
  fit() {
    this.node.classList.remove("dense");
    this.rows.style.maxHeight = "";
    const overflows = () => this.rows.scrollHeight > this.rows.clientHeight + 1;
    if (!this.rows.clientHeight || !overflows()) return;
    this.node.classList.add("dense");
    if (!overflows()) return;
    const top = this.rows.getBoundingClientRect().top - this.rows.scrollTop;
    const ends = this.lines.map((line) => line.node.getBoundingClientRect().bottom - top);
    const whole = Math.max(...ends.filter((end) => end <= this.rows.clientHeight), 0);
    if (whole) this.rows.style.maxHeight = `${whole}px`;
  }

  makeLine(layer) {
    const line = {
      layer,
      swatch: element("span", { class: "swatch" }),
      label: element("span", { class: "label" }),
      number: element("span", { class: "number" }),
      bar: element("div", { class: "bar", "aria-hidden": "true" }),
      rest: element("div", { class: "rest soft" }),
    };
    const first = element("div", { class: "first" },
      element("span", { class: "step soft", title: layer.name }, layer.name), line.swatch, line.label, line.number);
    line.node = element("div", { class: "line" }, first);
    if (layer.grid) line.node.append(line.bar, line.rest);
    return line;
  }

  mark(active, second) {
    this.lines.forEach((line, i) => line.node.classList.toggle("active", i === active || i === second));
  }

  /* facts: [{label, top: [[class, probability], …] | null, value: string | null}] or null for nothing chosen. */
  show(point, facts, chosen) {
    this.head.textContent = point
      ? `${chosen ? "Chosen pixel" : "Pixel"} ${point.x}, ${point.y}` : "Point at the picture to read a pixel";
    this.node.classList.toggle("empty", !point);
    this.lines.forEach((line, i) => this.fill(line, facts?.[i] ?? null));
    clearTimeout(this.timer);
    if (point && point.keyboard) this.timer = setTimeout(() => { this.live.textContent = this.sentence(point, facts); }, 350);
  }

  fill(line, fact) {
    const known = fact && fact.label != null;
    line.swatch.style.background = known ? rgb(this.palette[fact.label]) : "transparent";
    line.swatch.classList.toggle("none", !known);
    line.label.textContent = known ? this.names[fact.label] : (fact?.value ?? "–");
    const own = fact?.top?.find(([k]) => k === fact.label)?.[1];
    line.number.textContent = own == null ? "" : percent(own);
    if (!line.layer.grid) return;
    const top = fact?.top?.slice(0, 3) ?? [];
    // Networks trained with a binary loss score each class by itself: the scores may add up to more than one.
    const whole = Math.max(1, top.reduce((sum, [, p]) => sum + p, 0));
    line.bar.replaceChildren(...top.map(([k, p]) => {
      const part = element("span");
      part.style.width = `${(p / whole) * 100}%`;
      part.style.background = rgb(this.palette[k]);
      return part;
    }));
    const rest = top.filter(([k]) => k !== fact?.label).slice(0, 2);
    line.rest.textContent = rest.map(([k, p]) => `${this.names[k]} ${percent(p)}`).join(" · ") || "\u00a0";
  }

  sentence(point, facts) {
    const parts = this.lines.map((line, i) => {
      const fact = facts[i];
      const what = fact.label != null ? this.names[fact.label] : (fact.value ?? "nothing");
      const own = fact.top?.find(([k]) => k === fact.label)?.[1];
      return `${[line.layer.group, line.layer.name].filter(Boolean).join(" ")}: ${what}${own == null ? "" : ` ${percent(own)}`}`;
    });
    return `Pixel ${point.x}, ${point.y}. ${parts.join("; ")}.`;
  }
}

class Legend {
  /* on: {change(hidden: Set), focus(class | null)} */
  constructor(on) {
    this.on = on;
    this.list = element("div", { class: "classes" });
    this.all = element("button", { type: "button", class: "link", onclick: () => this.setAll() }, "");
    this.marks = element("div", { class: "marks" });
    this.node = element("section", { class: "legend", "aria-label": "Classes" },
      this.marks, element("span", { class: "soft" }, "Classes"), this.list, this.all);
    this.hidden = new Set();
    this.classes = [];
  }

  build(classes, palette, names) {
    if (classes.join() === this.classes.join() && names === this.names) return;
    this.classes = classes;
    this.names = names;
    this.buttons = classes.map((k) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = rgb(palette[k]);
      return element("button", {
        type: "button", class: "class", title: `${names[k]} (double-click: only this class)`,
        onclick: () => this.toggle(k), ondblclick: () => this.only(k),
        onpointerenter: () => this.on.focus(k), onpointerleave: () => this.on.focus(null),
      }, swatch, element("span", {}, names[k]));
    });
    this.list.replaceChildren(...this.buttons);
  }

  show(hidden) {
    this.hidden = new Set(hidden);
    this.classes.forEach((k, i) => this.buttons[i].setAttribute("aria-pressed", String(!this.hidden.has(k))));
    this.all.textContent = this.classes.some((k) => this.hidden.has(k)) ? "show all" : "hide all";
    this.node.hidden = !this.classes.length; // maps of numbers alone have no classes
  }

  /* What the colours of right and wrong say: [[words, colour], …]; none where classes are coloured. */
  judge(verdicts) {
    this.marks.hidden = !verdicts.length;
    this.marks.replaceChildren(...verdicts.map(([words, colour]) => {
      const swatch = element("span", { class: "swatch" });
      swatch.style.background = rgb(colour);
      return element("span", { class: "mark" }, swatch, element("span", {}, words));
    }));
  }

  toggle(k) {
    const hidden = new Set(this.hidden);
    if (!hidden.delete(k)) hidden.add(k);
    this.change(hidden);
  }

  /* Only class `k`; again, all of them. */
  only(k) {
    const others = this.classes.filter((other) => other !== k);
    const alone = !this.hidden.has(k) && others.length > 0 && others.every((other) => this.hidden.has(other));
    this.change(alone ? new Set() : new Set(others));
  }

  setAll() {
    this.change(this.classes.some((k) => this.hidden.has(k)) ? new Set() : new Set(this.classes));
  }

  change(hidden) {
    this.show(hidden);
    this.on.change(hidden);
  }
}
