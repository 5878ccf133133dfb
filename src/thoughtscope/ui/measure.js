// @ts-check
// The size of an element, kept as it changes.
import { useLayoutEffect, useState } from "./vendor/hooks.mjs";

export function useSize(element) {
  const [size, setSize] = useState(null);
  useLayoutEffect(() => {
    const measure = () => setSize((old) => {
      const { clientWidth: width, clientHeight: height } = element.current;
      return old && old.width === width && old.height === height ? old : { width, height };
    });
    const observer = new ResizeObserver(measure);
    observer.observe(element.current);
    measure();
    return () => observer.disconnect();
  }, []);
  return size;
}
