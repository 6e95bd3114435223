/* Says when the reader scrolls, or sees the place of a figure that the page has kept back: then it draws them all. Plotly
   takes 100 to 200 ms for a figure, and most of a page lies below the window. What is kept back until the first picture
   is drawn is asked for then. */

const KEPT_BACK = "[data-testid=stMain] [class*='st-key-later-']";
const AFTER_PICTURE = "[data-testid=stMain] [class*='st-key-after-']";
const LONGEST = 4000; // milliseconds to wait for a picture, which may never come

class InView {
  constructor(parent) {
    this.parent = parent;
    const root = document.querySelector("[data-testid=stMain]");
    this.near = new IntersectionObserver((entries) => entries.some((one) => one.isIntersecting) && this.say(), { root });
    this.changes = new MutationObserver(() => this.look());
    this.changes.observe(root, { childList: true, subtree: true });
    this.onMove = () => this.say();
    this.onPicture = () => {
      this.say(AFTER_PICTURE);
      this.fetch();
    };
    document.addEventListener("lag:painted", this.onPicture);
    this.timer = setTimeout(this.onPicture, LONGEST);
    this.root = root;
    root.addEventListener("scroll", this.onMove, { passive: true });
    addEventListener("beforeprint", this.onMove);
  }

  destroy() {
    this.changes.disconnect();
    this.near.disconnect();
    this.root.removeEventListener("scroll", this.onMove);
    removeEventListener("beforeprint", this.onMove);
    document.removeEventListener("lag:painted", this.onPicture);
    clearTimeout(this.timer);
  }

  update({ data, setStateValue }) {
    this.send = setStateValue;
    this.scripts = data.fetch;
    this.look();
  }

  look() {
    this.near.disconnect();
    document.querySelectorAll(KEPT_BACK).forEach((place) => this.near.observe(place));
    if (globalThis[Symbol.for("lag.painted")]) this.onPicture();
  }

  say(what = KEPT_BACK) {
    if (this.said || !document.querySelector(what)) return;
    this.said = true;
    tell(this.parent, () => this.send("near", true));
  }

  /* Has the browser fetch and read scripts that it does not need yet. */
  fetch() {
    for (const script of this.scripts?.splice(0) ?? []) {
      const href = new URL(script, document.baseURI).href;
      if (document.querySelector(`link[href="${href}"]`)) continue;
      document.head.append(Object.assign(document.createElement("link"), { rel: "modulepreload", href }));
    }
  }
}

export default (component) => mount(InView, component);
