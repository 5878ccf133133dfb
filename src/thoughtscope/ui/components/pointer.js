// @ts-check
// What a hand does on the graph: hover, click, drag to move, pinch and wheel to zoom.
import { useEffect, useMemo, useRef } from "../vendor/hooks.mjs";
import { toggleMark, togglePin } from "../actions/circuit.js";
import { hover, pan, select, zoom } from "../actions/view.js";
import { nearestNode } from "../layout.js";
import { getState } from "../store.js";

const FAR = 4; // pixels after which a press is a drag

/** Event handlers for the stage. `look` is a ref to { layout, nodes } as they are on screen. */
export function usePointer(look) {
  const hand = useRef({ touches: new Map(), dragged: false });
  return useMemo(() => {
    const point = (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const at = (event) => nearestNode(look.current.layout, look.current.nodes, ...point(event));
    const { touches } = hand.current;
    return {
      onPointerDown: (event) => {
        if (event.button !== 0) return;
        touches.set(event.pointerId, point(event));
        hand.current.dragged = false;
      },
      onPointerMove: (event) => {
        if (!touches.has(event.pointerId)) return hover(at(event)?.id ?? null);
        if (touches.size === 2) return pinch(touches, event, point(event), hand.current);
        return drag(touches, event, point(event), hand.current);
      },
      onPointerUp: (event) => { touches.delete(event.pointerId); },
      onPointerCancel: (event) => { touches.delete(event.pointerId); },
      onPointerLeave: (event) => {
        touches.delete(event.pointerId);
        hover(null);
      },
      onFocusIn: (event) => {
        if (event.target.matches?.("g.node:focus-visible")) hover(event.target.dataset.id, "keys");
      },
      onClick: (event) => {
        if (hand.current.dragged) return undefined;
        const node = at(event);
        if (!node) return select(null);
        if (event.ctrlKey || event.metaKey) return togglePin(node.id);
        if (event.shiftKey) return toggleMark(node.id);
        return select(node.id);
      },
    };
  }, []);
}

function drag(touches, event, now, hand) {
  const before = touches.get(event.pointerId);
  const [dx, dy] = [now[0] - before[0], now[1] - before[1]];
  if (!hand.dragged && Math.hypot(dx, dy) < FAR) return;
  if (getState().view.scale === 1) return; // it all fits: nothing to move
  hand.dragged = true;
  event.currentTarget.setPointerCapture(event.pointerId);
  touches.set(event.pointerId, now);
  pan(dx, dy);
}

function pinch(touches, event, now, hand) {
  const [other] = [...touches].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
  const before = touches.get(event.pointerId);
  const distance = (a, b) => Math.max(20, Math.hypot(a[0] - b[0], a[1] - b[1]));
  hand.dragged = true;
  touches.set(event.pointerId, now);
  zoom(distance(now, other) / distance(before, other), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
}

/** The wheel zooms with Ctrl or Command (which a trackpad's pinch sends too), and moves a graph that is zoomed. */
export function useWheel(element) {
  useEffect(() => {
    const stage = element.current;
    const onWheel = (event) => {
      const box = stage.getBoundingClientRect();
      const steps = event.deltaMode === 1 ? 16 : 1;
      if (event.ctrlKey || event.metaKey) {
        zoom(Math.exp(-event.deltaY * steps * 0.004), [event.clientX - box.left, event.clientY - box.top]);
      } else if (getState().view.scale > 1) pan(-event.deltaX * steps, -event.deltaY * steps);
      else return;
      event.preventDefault();
    };
    stage.addEventListener("wheel", onWheel, { passive: false });
    return () => stage.removeEventListener("wheel", onWheel);
  }, []);
}
