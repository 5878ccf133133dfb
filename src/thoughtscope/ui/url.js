// @ts-check
// The view lives in the address after the #, so that it can be shared and the back button works.

const EDGES = 300;

export function readHash(hash) {
  const values = new URLSearchParams(String(hash).replace(/^#/, ""));
  const prune = Number(values.get("t") ?? NaN);
  const edges = Math.trunc(Number(values.get("k") ?? EDGES));
  const theme = values.get("theme") ?? "";
  return {
    slug: values.get("g"),
    selected: values.get("s"),
    pins: values.has("p") ? split(values.get("p")) : null,
    supernodes: values.has("n") ? readGroups(values.get("n")) : null,
    prune: Number.isFinite(prune) ? Math.min(1, Math.max(0.2, prune)) : null, // null: where the graph opens
    showErrors: values.get("e") !== "0",
    edgeCount: Number.isFinite(edges) && edges >= 0 ? edges : EDGES,
    theme: ["light", "dark"].includes(theme) ? theme : null,
  };
}

function split(text) {
  return text ? text.split(",").map((id) => id.replaceAll("%2C", ",")) : [];
}

function readGroups(text) {
  try {
    const groups = JSON.parse(text).filter((g) => Array.isArray(g) && g.length > 1);
    return groups.map(([label, ...members]) => ({ label: String(label), members: members.map(String) }));
  } catch {
    return [];
  }
}

export function writeHash(view) {
  const values = new URLSearchParams();
  if (view.slug) values.set("g", view.slug);
  if (view.selected) values.set("s", view.selected);
  if (view.pins?.length) values.set("p", view.pins.map((id) => id.replaceAll(",", "%2C")).join(","));
  else if (view.slug && !view.bare) values.set("p", "");
  const groups = view.supernodes?.map((g) => [g.label, ...g.members]) ?? [];
  if (groups.length) values.set("n", JSON.stringify(groups));
  else if (view.slug && !view.bare) values.set("n", "");
  if (view.slug && view.prune !== (view.opening ?? 1)) values.set("t", String(Math.round(view.prune * 100) / 100));
  if (!view.showErrors) values.set("e", "0");
  if (view.slug && view.edgeCount !== EDGES) values.set("k", String(view.edgeCount));
  if (view.theme === "light" || view.theme === "dark") values.set("theme", view.theme);
  const text = values.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  return text ? `#${text}` : "#";
}
