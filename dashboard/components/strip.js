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
      this.items[i].note.textContent = layer.note.replaceAll(/ ?% ?/g, (sign) => sign.replaceAll(" ", "\u00a0"));
      this.items[i].node.classList.toggle("pending", Boolean(layer.pending));
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
