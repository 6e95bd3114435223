/* Old classes then and now: for each class a column for each run, hollow as high as the class was when it was learned, filled as
   high as it is at the step on view. The values of all steps are here, so the columns fall with the photograph that plays. */

const LONGEST = 5000; // milliseconds to wait for the photograph to play

class HeldBars {
  constructor(parent) {
    this.node = element("div", { class: "lag held", role: "group" });
    this.onStep = (event) => {
      clearTimeout(this.timer);
      this.show(event.detail);
    };
    for (const name of ["lag:step", "lag:shown"]) document.addEventListener(name, this.onStep);
    parent.append(this.node);
  }

  destroy() {
    for (const name of ["lag:step", "lag:shown"]) document.removeEventListener(name, this.onStep);
    clearTimeout(this.timer);
    this.node.remove();
  }

  update({ data }) {
    const { step, play, ...drawn } = data;
    const text = JSON.stringify(drawn), first = this.text === undefined;
    if (text !== this.text) this.build(data);
    this.text = text;
    if (first && play && !calm()) {
      this.show(0);
      this.timer = setTimeout(() => this.show(this.given), LONGEST);
    } else if (step !== this.given) {
      this.show(step);
    }
    this.given = step;
  }

  build({ label, classes, runs, highest }) {
    Object.assign(this, { classes, runs, highest });
    this.node.setAttribute("aria-label", label);
    this.columns = classes.map((_, c) => runs.map((run) => this.column(run, c)));
    this.node.replaceChildren(
      element("div", { class: "legend" }, ...runs.map((run) =>
        element("span", { style: `--bar: ${run.color}` }, element("i", { "aria-hidden": "true" }), run.name))),
      element("div", { class: "groups" }, ...classes.map((one, c) => element("div", { class: "group" },
        element("div", { class: "columns" }, ...this.columns[c].map((column) => column.node)),
        element("span", { class: "name", title: one.name },
          element("i", { style: `background: ${one.color}`, "aria-hidden": "true" }), element("b", {}, one.name))))));
    this.given = undefined;
  }

  column(run, c) {
    const now = element("span", { class: "now" }), number = element("span", { class: "number" });
    const then = element("span", { class: "then", style: `height: ${this.high(run.then[c])}` });
    const node = element("span", { class: "column", role: "img", style: `--bar: ${run.color}` }, then, now, number);
    return { node, now, number };
  }

  show(step) {
    this.runs.forEach((run, r) => this.classes.forEach(({ name }, c) => {
      const { node, now, number } = this.columns[c][r];
      const at = Math.min(step, run.now.length - 1), value = run.now[at][c], then = run.then[c];
      now.style.height = number.style.bottom = this.high(value);
      number.textContent = value === null ? "" : String(Math.round(value));
      const words = then === null ? "not known" : `${then.toFixed(1)} % when it was learned`
        + (value === null ? "" : `, ${value.toFixed(1)} % after step ${at}`);
      node.title = `${name}, ${run.name}: ${words}`;
      node.setAttribute("aria-label", node.title);
    }));
  }

  high(value) {
    return `${(100 * (value ?? 0)) / this.highest}%`;
  }
}

export default (component) => mount(HeldBars, component);
