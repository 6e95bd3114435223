/* The stage: draws one picture with one or two overlays, and turns pointer, wheel and keys into zoom, pan and pixels.
   Positions on the canvas are in device pixels, positions in the picture in its own pixels. */

const LARGEST_PIXEL = 48; // CSS pixels that one pixel of the picture may grow to
const PIXELATED_FROM = 3; // device pixels a picture pixel from which single pixels are shown, not a smooth picture

const LOWEST = 180; // CSS pixels of height that a very wide picture is given, too

class Stage {
  /* on: {hover(point | null), choose(point), zoom(), divide(fraction), toggle()}; point: {x, y, pane}. */
  constructor(on) {
    this.on = on;
    this.scene = null;
    this.tallest = 420;
    this.zoom = 1;
    this.centre = { x: 0, y: 0 };
    this.fraction = 0.5;
    this.cursor = null;
    this.pointers = new Map();
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.tags = [element("div", { class: "tag" }), element("div", { class: "tag right" })];
    this.divider = this.makeDivider();
    this.node = element("div", { class: "stage", tabindex: 0, role: "application", "aria-roledescription": "image viewer" },
      this.canvas, ...this.tags, this.divider);
    this.listen();
    this.observer = new ResizeObserver((entries) => this.resize(entries[0]));
    this.observe();
  }

  observe() {
    try {
      this.observer.observe(this.canvas, { box: "device-pixel-content-box" }); // also fires when only the density changes
    } catch {
      this.observer.observe(this.canvas); // Safari knows no such box
    }
  }

  destroy() {
    this.observer.disconnect();
    cancelAnimationFrame(this.frame);
  }

  /* scene: {size: [W, H], image, sides: [{overlay, outline, name}, …], split, opacity, marker, outlines, halo} */
  show(scene, keepView) {
    this.scene = scene;
    if (!keepView) this.reset(false);
    this.labelSides();
    this.fit();
    this.repaint();
  }

  // ------------------------------------------------------------------ geometry

  get ratio() {
    return this.canvas.width / Math.max(1, this.canvas.getBoundingClientRect().width); // clientWidth would be rounded
  }

  get two() {
    return this.scene.sides.length > 1;
  }

  panes() {
    const { width, height } = this.canvas;
    if (!this.two || this.scene.split === "swipe") return [{ x: 0, y: 0, width, height }];
    const gap = Math.round(8 * this.ratio);
    const half = Math.floor((width - gap) / 2);
    return [{ x: 0, y: 0, width: half, height }, { x: width - half, y: 0, width: half, height }];
  }

  scale() {
    const [pane] = this.panes();
    const [W, H] = this.scene.size;
    return Math.min(pane.width / W, pane.height / H) * this.zoom;
  }

  /* Device position of the picture's corner in a pane; whole pixels, so that picture and overlay share their grid. */
  origin(pane) {
    const scale = this.scale();
    return {
      x: Math.round(pane.x + pane.width / 2 - this.centre.x * scale),
      y: Math.round(pane.y + pane.height / 2 - this.centre.y * scale),
    };
  }

  /* As high as the picture needs at this width and no higher than `tallest`: no empty ground above and below it. */
  fit() {
    const width = this.node.clientWidth;
    if (!this.scene || !width) return;
    const [W, H] = this.scene.size;
    const pane = this.two && this.scene.split === "side" ? (width - 8) / 2 : width;
    const height = Math.min(this.tallest, Math.max(LOWEST, Math.ceil((pane * H) / W)));
    this.node.parentElement?.style.setProperty("--height", `${height}px`);
  }

  paneAt(x) {
    const panes = this.panes();
    return panes.length > 1 && x >= panes[1].x ? 1 : 0;
  }

  toPicture(x, y, index = this.paneAt(x)) {
    const origin = this.origin(this.panes()[index]);
    const scale = this.scale();
    return { x: (x - origin.x) / scale, y: (y - origin.y) / scale, pane: index };
  }

  /* The picture's pixel under a pointer event, or null beside the picture. */
  pixelAt(event) {
    if (!this.scene) return null;
    const box = this.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) * this.ratio;
    const at = this.toPicture(x, (event.clientY - box.top) * this.ratio);
    const [W, H] = this.scene.size;
    if (at.x < 0 || at.y < 0 || at.x >= W || at.y >= H) return null;
    const pane = this.two && this.scene.split === "swipe" ? Number(x >= this.dividerX()) : at.pane;
    return { x: Math.floor(at.x), y: Math.floor(at.y), pane };
  }

  dividerX() {
    const [pane] = this.panes();
    const left = Math.max(pane.x, this.origin(pane).x);
    const right = Math.min(pane.x + pane.width, this.origin(pane).x + this.scene.size[0] * this.scale());
    return Math.round(left + this.fraction * (right - left));
  }

  limits() {
    const [pane] = this.panes();
    const [W, H] = this.scene.size;
    const fit = Math.min(pane.width / W, pane.height / H);
    return { low: 1, high: Math.max(1, (LARGEST_PIXEL * this.ratio) / fit) };
  }

  /* A picture smaller than its pane is centred; a larger one leaves no empty border. */
  holdInside() {
    const [pane] = this.panes();
    const scale = this.scale();
    const hold = (centre, size, room) => {
      const half = room / scale / 2;
      return size <= 2 * half ? size / 2 : clamp(centre, half, size - half);
    };
    this.centre = {
      x: hold(this.centre.x, this.scene.size[0], pane.width),
      y: hold(this.centre.y, this.scene.size[1], pane.height),
    };
  }

  // ------------------------------------------------------------------ view

  reset(paint = true) {
    this.zoom = 1;
    this.centre = { x: this.scene.size[0] / 2, y: this.scene.size[1] / 2 };
    if (paint) this.repaint();
  }

  /* Zooms so that the picture's point under device position (x, y) stays where it is. */
  zoomAt(factor, x, y) {
    if (!this.scene) return;
    const pane = this.panes()[this.paneAt(x)];
    const before = this.toPicture(x, y);
    const { low, high } = this.limits();
    this.zoom = clamp(this.zoom * factor, low, high);
    const scale = this.scale();
    this.centre = {
      x: before.x - (x - pane.x - pane.width / 2) / scale,
      y: before.y - (y - pane.y - pane.height / 2) / scale,
    };
    this.repaint();
  }

  zoomBy(factor) {
    const [pane] = this.panes();
    const focus = this.cursor ?? this.centre;
    const origin = this.origin(pane);
    const scale = this.scale();
    this.zoomAt(factor, origin.x + focus.x * scale, origin.y + focus.y * scale);
  }

  pan(dx, dy) {
    const scale = this.scale();
    this.centre = { x: this.centre.x - dx / scale, y: this.centre.y - dy / scale };
    this.repaint();
  }

  /* CSS pixels a picture pixel. */
  magnification() {
    return this.scene ? this.scale() / this.ratio : 1;
  }

  /* The exact number of device pixels where the browser tells it (at fractional densities CSS pixels would round);
     an emulated density is not in there, then the ratio counts. */
  resize(entry) {
    const ratio = window.devicePixelRatio;
    const exact = entry.devicePixelContentBoxSize?.[0];
    const whole = (css, device) => (Math.abs((device ?? Infinity) - css * ratio) <= 1 ? device : Math.round(css * ratio));
    const width = whole(entry.contentRect.width, exact?.inlineSize);
    const height = whole(entry.contentRect.height, exact?.blockSize);
    if (width === this.canvas.width && height === this.canvas.height) return;
    this.canvas.width = Math.max(1, width);
    this.canvas.height = Math.max(1, height);
    this.fit();
    this.paint(); // at once: a resized canvas is empty
  }

  repaint() {
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.paint());
  }

  // ------------------------------------------------------------------ drawing

  paint() {
    if (!this.scene || this.canvas.width <= 1) return;
    this.holdInside();
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const panes = this.panes();
    if (panes.length > 1) this.scene.sides.forEach((side, i) => this.drawSide(context, panes[i], side, panes[i]));
    else this.drawSwipe(context, panes[0]);
    panes.forEach((pane, index) => this.drawPoints(context, pane, index));
    this.placeDivider();
    this.on.zoom();
  }

  drawSwipe(context, pane) {
    const [first, second] = this.scene.sides;
    if (!second) return this.drawSide(context, pane, first, pane);
    const x = this.dividerX();
    this.drawSide(context, pane, first, { ...pane, width: x });
    this.drawSide(context, pane, second, { ...pane, x, width: pane.width - x });
  }

  drawSide(context, pane, side, clip) {
    const { image, size, opacity, outlines } = this.scene;
    const origin = this.origin(pane);
    const scale = this.scale();
    context.save();
    context.beginPath();
    context.rect(clip.x, clip.y, clip.width, clip.height);
    context.clip();
    context.imageSmoothingQuality = "high";
    context.imageSmoothingEnabled = scale < PIXELATED_FROM;
    context.drawImage(image, origin.x, origin.y, size[0] * scale, size[1] * scale);
    if (side.overlay) {
      context.globalAlpha = opacity;
      context.imageSmoothingEnabled = scale < 1; // enlarged, a label is a label: nothing in between
      context.drawImage(side.overlay, origin.x, origin.y, size[0] * scale, size[1] * scale);
      context.globalAlpha = 1;
    }
    if (outlines && side.outline) this.drawOutline(context, side.outline(), origin, scale);
    context.restore();
  }

  drawOutline(context, path, origin, scale) {
    context.setTransform(scale, 0, 0, scale, origin.x, origin.y);
    context.lineCap = "square";
    for (const [width, colour] of [[2.6, "rgb(0 0 0 / .45)"], [1.2, "rgb(255 255 255 / .95)"]]) {
      context.lineWidth = (width * this.ratio) / scale;
      context.strokeStyle = colour;
      context.stroke(path);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
  }

  drawPoints(context, pane, index) {
    const origin = this.origin(pane);
    const scale = this.scale();
    context.save();
    context.beginPath();
    context.rect(pane.x, pane.y, pane.width, pane.height);
    context.clip();
    const place = (point) => ({ x: origin.x + (point.x + 0.5) * scale, y: origin.y + (point.y + 0.5) * scale });
    if (this.scene.marker) this.drawMarker(context, place(this.scene.marker), scale);
    if (this.cursor) this.drawCursor(context, place(this.cursor), scale, index);
    context.restore();
  }

  drawMarker(context, at, scale) {
    const r = Math.max(7 * this.ratio, scale / 2 + 3 * this.ratio);
    const path = new Path2D();
    path.arc(at.x, at.y, r, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      path.moveTo(at.x + dx * r, at.y + dy * r);
      path.lineTo(at.x + dx * (r + 5 * this.ratio), at.y + dy * (r + 5 * this.ratio));
    }
    this.strokeTwice(context, path);
  }

  drawCursor(context, at, scale, index) {
    const path = new Path2D();
    if (scale / this.ratio >= 6) path.rect(at.x - scale / 2, at.y - scale / 2, scale, scale);
    else if (this.cursor.keyboard || this.cursor.pane !== index) path.arc(at.x, at.y, 4 * this.ratio, 0, 2 * Math.PI);
    this.strokeTwice(context, path);
  }

  strokeTwice(context, path) {
    for (const [width, colour] of [[4, "rgb(0 0 0 / .65)"], [1.8, "white"]]) {
      context.lineWidth = width * this.ratio;
      context.strokeStyle = colour;
      context.stroke(path);
    }
  }

  labelSides() {
    const { sides, split } = this.scene;
    this.node.dataset.split = sides.length > 1 ? split : "one";
    this.tags.forEach((tag, i) => {
      tag.textContent = sides[i]?.name ?? "";
      tag.hidden = !tag.textContent;
    });
    const swiping = sides.length > 1 && split === "swipe";
    this.divider.hidden = !swiping;
    if (swiping) this.divider.setAttribute("aria-label", `Divider: ${sides[0].name} on the left, ${sides[1].name} on the right`);
  }

  placeDivider() {
    if (this.divider.hidden) return;
    this.divider.style.left = `${this.dividerX() / this.ratio}px`;
    this.divider.setAttribute("aria-valuenow", Math.round(this.fraction * 100));
  }

  // ------------------------------------------------------------------ pointer and keys

  makeDivider() {
    return element("div", {
      class: "divider", tabindex: 0, role: "slider", "aria-valuemin": 0, "aria-valuemax": 100,
      "aria-valuenow": 50, "aria-orientation": "horizontal", hidden: true,
      onpointerdown: (event) => this.dragDivider(event),
      onkeydown: (event) => this.dividerKey(event),
      ondblclick: (event) => { event.stopPropagation(); this.divide(0.5); },
      onclick: (event) => event.stopPropagation(),
    }, element("div", { class: "grip" }, icon("swipe")));
  }

  divide(fraction) {
    this.fraction = clamp(fraction, 0, 1);
    this.on.divide(this.fraction);
    this.repaint();
  }

  dragDivider(event) {
    event.stopPropagation();
    event.preventDefault();
    this.divider.focus({ preventScroll: true });
    this.divider.setPointerCapture(event.pointerId);
    const move = (moved) => this.divideAt(moved.clientX);
    this.divider.addEventListener("pointermove", move);
    const stop = () => this.divider.removeEventListener("pointermove", move);
    for (const end of ["pointerup", "pointercancel"]) this.divider.addEventListener(end, stop, { once: true });
  }

  divideAt(clientX) {
    const [pane] = this.panes();
    const x = (clientX - this.canvas.getBoundingClientRect().left) * this.ratio;
    const left = Math.max(pane.x, this.origin(pane).x);
    const right = Math.min(pane.x + pane.width, this.origin(pane).x + this.scene.size[0] * this.scale());
    this.divide((x - left) / Math.max(1, right - left));
  }

  dividerKey(event) {
    const step = event.shiftKey ? 0.1 : 0.02;
    const to = { ArrowLeft: this.fraction - step, ArrowRight: this.fraction + step, Home: 0, End: 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.divide(to);
  }

  listen() {
    const node = this.node;
    node.addEventListener("pointerdown", (event) => this.pointerDown(event));
    node.addEventListener("pointermove", (event) => this.pointerMove(event));
    for (const end of ["pointerup", "pointercancel"]) node.addEventListener(end, (event) => this.pointerUp(event));
    node.addEventListener("pointerleave", () => this.hover(null));
    node.addEventListener("click", (event) => this.click(event));
    node.addEventListener("dblclick", () => this.scene && this.reset());
    node.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    node.addEventListener("keydown", (event) => this.key(event));
    node.addEventListener("blur", () => this.cursor?.keyboard && this.hover(null));
  }

  hover(point, keyboard = false) {
    this.cursor = point && { ...point, keyboard };
    this.on.hover(this.cursor);
    this.repaint();
  }

  pointerDown(event) {
    if (event.button !== 0 || !this.scene) return;
    this.pointers.set(event.pointerId, event);
    this.moved = false;
  }

  pointerMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.scene && this.hover(this.pixelAt(event));
    const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
    if (!this.moved && Math.hypot(dx, dy) < 4) return;
    if (!this.moved) this.node.setPointerCapture(event.pointerId);
    this.moved = true;
    if (this.pointers.size === 2) this.pinch(before, event);
    else this.pan(dx * this.ratio, dy * this.ratio);
    this.pointers.set(event.pointerId, event);
    this.node.classList.toggle("dragging", this.zoom > 1);
  }

  pinch(before, after) {
    const other = [...this.pointers.values()].find((pointer) => pointer.pointerId !== after.pointerId);
    const apart = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY);
    const box = this.canvas.getBoundingClientRect();
    const middle = [(after.clientX + other.clientX) / 2 - box.left, (after.clientY + other.clientY) / 2 - box.top];
    this.zoomAt(apart(after) / Math.max(1, apart(before)), middle[0] * this.ratio, middle[1] * this.ratio);
  }

  pointerUp(event) {
    this.pointers.delete(event.pointerId);
    this.node.classList.remove("dragging");
  }

  click(event) {
    const point = this.moved || event.detail > 1 ? null : this.pixelAt(event); // a second click is a double click: reset
    if (point) this.on.choose(point);
  }

  /* At the smallest size, scrolling away belongs to the page. */
  wheel(event) {
    if (!this.scene || (this.zoom <= 1 && event.deltaY > 0 && !event.ctrlKey)) return;
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const factor = Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0018));
    this.zoomAt(factor, (event.clientX - box.left) * this.ratio, (event.clientY - box.top) * this.ratio);
  }

  key(event) {
    if (!this.scene || event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const actions = {
      "+": () => this.zoomBy(1.4), "=": () => this.zoomBy(1.4), "-": () => this.zoomBy(1 / 1.4),
      0: () => this.reset(), o: () => this.on.toggle(), Escape: () => this.hover(null),
      Enter: () => this.cursor && this.on.choose(this.cursor), " ": () => this.cursor && this.on.choose(this.cursor),
    };
    const act = moves[event.key] ? () => this.step(moves[event.key], event.shiftKey ? 10 : 1) : actions[event.key];
    if (!act) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  /* Moves the keyboard's pixel, and the view after it. */
  step([dx, dy], by) {
    const [W, H] = this.scene.size;
    const from = this.cursor ?? this.scene.marker ?? { x: Math.floor(this.centre.x), y: Math.floor(this.centre.y) };
    const x = clamp(from.x + dx * by, 0, W - 1);
    const y = clamp(from.y + dy * by, 0, H - 1);
    const [pane] = this.panes();
    const scale = this.scale();
    const keep = (centre, at, room) => clamp(centre, at + 1 - room / scale / 2.2, at + room / scale / 2.2);
    this.centre = { x: keep(this.centre.x, x, pane.width), y: keep(this.centre.y, y, pane.height) };
    this.hover({ x, y, pane: this.cursor?.pane ?? 0 }, true);
  }
}
