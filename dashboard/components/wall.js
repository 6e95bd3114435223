/* A table of thumbnails: a row a class, a column a step. A grid: one cell is in the tab order, arrow keys move,
   Enter or space chooses. */

class Wall {
  constructor(parent) {
    this.grid = element("div", { class: "cells", role: "grid", onkeydown: (event) => this.key(event) });
    this.node = element("div", { class: "lag wall" }, this.grid);
    this.missing = new MissingBlobs(this.node, () => this.update(this.received));
    parent.append(this.node);
  }

  destroy() {
    this.missing.stop();
    blobStore().release(this);
    this.node.remove();
  }

  update(received) {
    this.received = received;
    const { data, setTriggerValue } = received;
    this.send = (name, value) => tell(this.node, () => setTriggerValue(name, value));
    this.props = openPayload(data);
    const names = this.props.cells.flat().map((cell) => cell.image).filter(Boolean);
    const missing = blobStore().hold(this, names);
    if (missing.length) this.missing.request(missing, setTriggerValue);
    else this.missing.found();
    this.build();
  }

  build() {
    const { columns, rows, cells, chosen, label } = this.props;
    const focused = this.node.getRootNode().activeElement?.dataset?.at;
    this.grid.setAttribute("aria-label", label);
    this.grid.style.setProperty("--columns", columns.length);
    this.cells = cells.map((row, r) => row.map((cell, c) => this.cell(cell, r, c, chosen)));
    const head = element("div", { role: "row", class: "row" }, element("span", { role: "columnheader", class: "corner" }),
      ...columns.map((name) => element("span", { role: "columnheader", class: "head" }, name)));
    const lines = rows.map((row, r) => element("div", { role: "row", class: "row" }, this.name(row), ...this.cells[r]));
    const at = focused ?? (chosen ? chosen.join("-") : "0-0");
    const inTabOrder = this.cells.flat().find((node) => node.dataset.at === at) ?? this.cells.flat()[0];
    if (inTabOrder) inTabOrder.tabIndex = 0;
    this.grid.replaceChildren(head, ...lines);
    if (focused !== undefined && inTabOrder?.dataset.at === focused) inTabOrder.focus({ preventScroll: true });
  }

  name(row) {
    return element("span", { role: "rowheader", class: "name", title: row.name },
      element("i", { style: `background: ${row.color}`, "aria-hidden": "true" }), element("b", {}, row.name));
  }

  cell(cell, r, c, chosen) {
    const canvas = cell.image ? element("canvas", { "aria-hidden": "true" }) : null;
    const number = cell.number && element("span", { class: `badge ${cell.tone}` }, cell.number);
    const node = element("div", {
      class: `cell eased ${cell.id ? "" : "nothing"}`, role: "gridcell", tabindex: -1, "data-at": `${r}-${c}`,
      "aria-selected": String(chosen?.[0] === r && chosen?.[1] === c), "aria-label": cell.words, title: cell.words,
      onclick: () => this.choose(r, c),
    }, canvas ?? element("span", { class: "soft" }, cell.text), number || null);
    if (canvas) blobStore().ready([cell.image]).then(([image]) => image && this.draw(canvas, image)).catch(() => {});
    return node;
  }

  /* Fills the cell: the middle of the picture, at the screen's own density. */
  draw(canvas, image) {
    const aspect = 4 / 3, width = Math.round(190 * Math.max(1, window.devicePixelRatio)), height = Math.round(width / aspect);
    Object.assign(canvas, { width, height });
    const across = Math.min(image.width, image.height * aspect), down = across / aspect;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(image, (image.width - across) / 2, (image.height - down) / 2, across, down, 0, 0, width, height);
  }

  choose(r, c) {
    this.focus(r, c);
    if (this.props.cells[r][c].id) this.send("choose", `${r}-${c}`);
  }

  focus(r, c) {
    for (const node of this.cells.flat()) node.tabIndex = -1;
    this.cells[r][c].tabIndex = 0;
    this.cells[r][c].focus();
  }

  key(event) {
    const at = event.target.dataset?.at?.split("-").map(Number);
    if (!at) return;
    const [r, c] = at, lastRow = this.cells.length - 1, lastColumn = this.cells[0].length - 1;
    const to = {
      ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], ArrowUp: [r - 1, c], ArrowDown: [r + 1, c],
      Home: [r, 0], End: [r, lastColumn],
    }[event.key];
    if (to) this.focus(clamp(to[0], 0, lastRow), clamp(to[1], 0, lastColumn));
    else if (event.key === "Enter" || event.key === " ") this.choose(r, c);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
}

export default (component) => mount(Wall, component);
