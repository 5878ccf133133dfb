// @ts-check
// The nodes on show, for the components that need them.
import { useMemo, useRef } from "./vendor/hooks.mjs";
import { useParts } from "./store.js";
import { shownNodes } from "./model.js";

/** As a list that stays the same object until a node comes or goes. */
export function useShownNodes() {
  const parts = useParts("graph", "prune", "showErrors", "selected", "pins", "supernodes");
  const last = useRef([]);
  return useMemo(() => {
    const nodes = shownNodes(parts);
    const same = nodes.length === last.current.length && nodes.every((node, i) => node === last.current[i]);
    if (!same) last.current = nodes;
    return last.current;
  }, [parts]);
}
