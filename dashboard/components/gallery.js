/* A page of thumbnails. A list box: one entry is in the tab order, arrow keys move, Enter or space chooses. */

/* A name in two parts: where the first is cut, the last stays: windows of one tile, images of one series, differ at the end. */
function endInSight(name) {
  const at = name.lastIndexOf("@");
  const tail = at > 0 && name.length - at <= 12 ? at : name.length - 4;
  if (name.length <= 8) return [element("span", {}, name)];
  return [element("span", {}, name.slice(0, tail)), element("span", {}, name.slice(tail))];
}

class Gallery {
  constructor(parent) {
    this.list = element("div", { class: "grid", role: "listbox", onkeydown: (event) => this.key(event) });
    this.range = element("span", { class: "soft" });
    this.back = this.pageButton("left", "Previous page", -1);
    this.next = this.pageButton("right", "Next page", 1);
    this.foot = element("div", { class: "foot" }, this.range, element("span", { class: "space" }), this.back, this.next);
    this.node = element("div", { class: "lag gallery" }, this.list, this.foot);
    this.items = [];
    this.missing = new MissingBlobs(this.node, () => this.update(this.received));
    parent.append(this.node);
  }

  destroy() {
    this.missing.stop();
    blobStore().release(this);
    this.node.remove();
  }

  pageButton(name, title, by) {
    return element("button", { type: "button", class: "turn", title, "aria-label": title,
      onclick: () => this.send("page", this.props.page + by) }, icon(name));
  }

  async update(received) {
    this.received = received;
    const { data, setTriggerValue } = received;
    this.send = (name, value) => tell(this.node, () => setTriggerValue(name, value));
    this.props = openPayload(data);
    if (this.props.selected !== this.given) this.selected = this.props.selected; // else what was chosen here stays chosen
    this.given = this.props.selected;
    const names = this.props.items.map((item) => item.image).filter(Boolean); // none while the pictures are made
    const missing = blobStore().hold(this, names);
    if (missing.length) this.missing.request(missing, setTriggerValue);
    else this.missing.found();
    this.build();
  }

  build() {
    const { items, page, pages, first, total, size, aspect, label, empty } = this.props;
    const { selected } = this;
    const focused = this.node.getRootNode().activeElement?.dataset?.id;
    this.list.style.setProperty("--size", `${size}px`);
    this.list.style.setProperty("--aspect", String(aspect));
    this.list.setAttribute("aria-label", label);
    this.items = items.map((item) => this.entry(item, item.id === selected));
    const inTabOrder = this.items.find((node) => node.dataset.id === (focused ?? selected)) ?? this.items[0];
    if (inTabOrder) inTabOrder.tabIndex = 0;
    this.list.replaceChildren(...(items.length ? this.items : [element("p", { class: "soft" }, empty)]));
    if (focused !== undefined && inTabOrder?.dataset.id === focused) inTabOrder.focus({ preventScroll: true });
    this.foot.hidden = !total;
    this.range.textContent = pages > 1 ? `${first + 1}–${first + items.length} of ${total}` : `${total} ${total === 1 ? label.toLowerCase().replace(/s$/, "") : label.toLowerCase()}`;
    this.range.title = pages > 1 ? `${label}, page ${page + 1} of ${pages}` : "";
    this.back.disabled = page === 0;
    this.next.disabled = page >= pages - 1;
    this.back.hidden = this.next.hidden = pages < 2;
  }

  entry(item, selected) {
    const canvas = element("canvas", { "aria-hidden": "true" });
    const badge = item.badge && element("span", { class: `badge ${item.tone}` }, item.badge);
    const box = this.props.ticks ? this.box(item) : null;
    const node = element("div", {
      class: "entry eased", role: "option", tabindex: -1, "data-id": item.id, "aria-selected": String(selected),
      "aria-label": [item.caption, item.badge, item.ticked && "ticked"].filter(Boolean).join(", "), title: item.caption,
      onclick: () => this.choose(node),
    }, element("span", { class: "frame" }, canvas, badge || null, box), element("span", { class: "caption" }, ...endInSight(item.caption)));
    blobStore().ready([item.image]).then(([image]) => image && this.draw(canvas, image)).catch(() => node.classList.add("broken"));
    return node;
  }

  /* The box of an entry; the keyboard reaches it as the space bar on the entry. */
  box(item) {
    return element("span", { class: "tick", "aria-hidden": "true", title: item.ticked ? "untick" : "tick",
      onclick: (event) => { event.stopPropagation(); this.send("tick", item.id); } }, item.ticked ? "✓" : "");
  }

  /* Fills the frame: the middle of the picture, at the screen's own density. */
  draw(canvas, image) {
    const { size, aspect } = this.props;
    const width = Math.round(size * 1.4 * Math.max(1, window.devicePixelRatio)), height = Math.round(width / aspect);
    Object.assign(canvas, { width, height });
    const cut = Math.min(image.width / aspect, image.height), across = cut * aspect;
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = cut >= 48; // filters and channel maps are small: show their cells
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (image.width - across) / 2, (image.height - cut) / 2, across, cut, 0, 0, width, height);
  }

  choose(node) {
    this.selected = node.dataset.id;
    for (const item of this.items) item.setAttribute("aria-selected", String(item === node));
    this.focus(node);
    this.send("choose", node.dataset.id);
  }

  focus(node) {
    for (const item of this.items) item.tabIndex = item === node ? 0 : -1;
    node.focus({ preventScroll: false });
  }

  columns() {
    const top = this.items[0].offsetTop;
    const second = this.items.findIndex((item) => item.offsetTop > top);
    return second < 0 ? this.items.length : second;
  }

  key(event) {
    const at = this.items.indexOf(event.target);
    if (at < 0) return;
    if (event.key === " " && this.props.ticks) this.send("tick", event.target.dataset.id);
    else if (event.key === "Enter" || event.key === " ") this.choose(this.items[at]);
    else if (event.key === "PageDown" && !this.next.disabled) this.next.click();
    else if (event.key === "PageUp" && !this.back.disabled) this.back.click();
    else {
      const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns(), ArrowDown: this.columns() };
      const to = { Home: 0, End: this.items.length - 1 }[event.key] ?? at + (moves[event.key] ?? NaN);
      if (Number.isNaN(to)) return;
      if (this.items[to]) this.focus(this.items[to]);
    }
    event.preventDefault();
    event.stopPropagation();
  }
}

export default (component) => mount(Gallery, component);
