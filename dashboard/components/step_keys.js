/* J, L and the buttons choose a step at once: viewers show it from what they have, the server follows with the rest.
   What is sent is the step itself, not the key: however many keys one answer of the server takes, none is lost. */

class StepKeys {
  constructor(parent) {
    this.parent = parent;
    this.onKey = (event) => this.press(event);
    this.onClick = (event) => this.click(event);
    this.onLeave = () => this.timer && this.sendNow();
    document.addEventListener("keydown", this.onKey);
    document.addEventListener("click", this.onClick, true);
    document.addEventListener("lag:leave", this.onLeave);
    keepHistoryShort();
    watchTurns();
  }

  destroy() {
    clearTimeout(this.timer);
    document.removeEventListener("keydown", this.onKey);
    document.removeEventListener("click", this.onClick, true);
    document.removeEventListener("lag:leave", this.onLeave);
  }

  update({ data, setStateValue }) {
    this.send = setStateValue;
    const chosen = chosenStep();
    Object.assign(chosen, { last: data.last, seen: data.seen, sent: Math.max(chosen.sent, data.seen) });
    if (!serverIsBehind()) chosen.step = data.step;
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || writing(event.composedPath()[0])) return;
    const by = { j: -1, l: 1 }[event.key.toLowerCase()];
    if (by) this.move(by);
  }

  click(event) {
    const pressed = (name) => event.target.closest?.(`.st-key-step-${name} button:not(:disabled)`);
    const by = pressed("back") ? -1 : pressed("next") ? 1 : 0;
    if (!by) return;
    event.stopPropagation();
    this.move(by);
  }

  move(by) {
    const chosen = chosenStep();
    const step = Math.min(Math.max(chosen.step + by, 0), chosen.last);
    if (step === chosen.step) return;
    Object.assign(chosen, { step, sent: chosen.sent + 1, at: performance.now() });
    document.dispatchEvent(new CustomEvent("lag:step", { detail: step }));
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.sendNow(), 30);
  }

  sendNow() {
    clearTimeout(this.timer);
    this.timer = null;
    const chosen = chosenStep();
    tell(this.parent, () => this.send("target", { step: chosen.step, count: chosen.sent }));
  }
}

function writing(target) {
  return target?.closest?.("input, textarea, select, [contenteditable=true]") != null;
}

export default (component) => mount(StepKeys, component);
