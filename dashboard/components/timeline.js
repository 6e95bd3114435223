/* A button for each step of the run: its number, a line about its training, the classes that it introduces. */

class Timeline {
  constructor(parent) {
    this.node = element("div", { class: "lag timeline", role: "group" });
    parent.append(this.node);
  }

  destroy() {
    this.node.remove();
  }

  update({ data, setTriggerValue }) {
    this.send = (name, value) => tell(this.node, () => setTriggerValue(name, value));
    const text = JSON.stringify(data);
    if (text === this.text) return; // what has the focus keeps it
    this.text = text;
    const focused = this.node.getRootNode().activeElement?.dataset?.step;
    this.node.setAttribute("aria-label", data.label);
    this.node.replaceChildren(...data.boxes.map((box, t) => this.box(box, t, t === data.step)));
    if (focused !== undefined) this.node.children[focused]?.focus({ preventScroll: true });
  }

  box({ note, classes, more }, t, chosen) {
    const names = classes.map(({ name, color }) =>
      element("span", { class: "name" }, element("i", { style: `background: ${color}`, "aria-hidden": "true" }), name));
    if (more) names.push(element("span", { class: "name" }, `and ${more} more`));
    return element("button", {
      type: "button", class: "box eased", "data-step": t, "aria-pressed": String(chosen), title: `show step ${t}`,
      onclick: () => this.send("choose", t),
    }, element("span", {}, element("b", {}, `step ${t}`), " ", element("span", { class: "soft" }, note)),
    element("span", { class: "names" }, ...names));
  }
}

export default (component) => mount(Timeline, component);
