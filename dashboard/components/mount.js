/* The object behind each component, by the element that it fills. */
const mounted = new WeakMap();

/*
 * What a component exports: makes one `Shown(parent)`, hands it every run of the script if it has `update`, and
 * destroys it when the component leaves the page.
 */
function mount(Shown, component) {
  const parent = component.parentElement;
  if (!mounted.has(parent)) mounted.set(parent, new Shown(parent));
  const shown = mounted.get(parent);
  shown.update?.(component);
  return () => {
    mounted.delete(parent);
    shown.destroy();
  };
}
