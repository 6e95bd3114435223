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
    const nothing = [props.nothing.name, rgb(props.nothing.colour)];
    if (this.viewer.judging()) {
      const none = indices.some((i) => layers[i]?.map?.includes(props.nothing.label));
      return [...this.viewer.verdicts().map(([words, colour]) => [words, rgb(colour)]), ...(none ? [nothing] : [])];
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
