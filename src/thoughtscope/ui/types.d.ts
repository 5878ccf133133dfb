// What the server sends and what the page makes of it, for readers and for `tsc --checkJs`. Nothing here runs.

/** GET api/session. */
interface Session {
  version: string;
  model: { name?: string; n_layers?: number; d_model?: number; dtype?: string; device?: string } | null;
  dictionary: { name?: string; n_features?: number } | null;
  graphs: GraphSummary[];
  example_prompts: string[];
  read_only: boolean;
  /** Optional verbs of this server: "score" (the scores of a part of a graph). */
  offers?: string[];
}

interface GraphSummary {
  slug: string;
  prompt?: string;
  title?: string;
  created?: string | number;
  /** Counts the graphs that would read alike; null for one that stands alone. */
  number?: number | null;
}

/** GET api/graphs/{slug}: a graph file, and what the server adds to it. */
interface GraphFile {
  metadata: any;
  /** `layout`: where cards were dragged to, as shares of the width and height of their panel. */
  qParams?: { pinnedIds?: string[]; supernodes?: string[][]; layout?: Record<string, [number, number]> };
  nodes: any[];
  links: { source: string; target: string; weight: number }[];
  score_curve?: ScoreCurve | null;
  /** By link, in their order: the share of the influence on the answers that it carries. */
  edge_influence?: number[] | null;
  /** The interventions that were done on this graph, oldest first. */
  outcomes?: Outcome[];
}

/** Scores and sizes of a graph at each stop of the slider; lists are null where `why_unscored` says why. */
interface ScoreCurve {
  stops: number[];
  replacement: number[] | null;
  completeness: number[] | null;
  mean_path_length: number[] | null;
  nodes?: number[];
  edges?: number[];
  error_nodes?: number[];
  error_edges?: number[];
  /** Share of all influence that the graph holds at the last stop; null where that is not known. */
  influence_held: number | null;
  why_unscored: string | null;
}

interface Prediction {
  direction: "up" | "down";
  confirmed: boolean | null;
  /** Change of the answer's logit that the graph predicts, and the one that was measured. */
  change?: number | null;
  measured?: number | null;
  /** Changes smaller than this count as none. */
  threshold?: number | null;
}

/** POST api/intervene. */
interface Outcome {
  before: { top: Chance[] };
  after: { top: Chance[] };
  kl: number;
  answer: string | { text: string };
  rank_before: number;
  rank_after: number;
  prediction?: Prediction | null;
  /** The same change on random features of equal number and strength. */
  control?: Prediction | null;
  feature_changes?: FeatureChange[];
  generation_before?: string | null;
  generation_after?: string | null;
  /** Its number among the graph's outcomes; null where it was not kept. */
  id?: number | null;
  created?: string;
  changes?: { nodes: string[]; op: string; value: number | null }[];
  attention?: string;
  title?: string;
  label?: string;
  plan?: { label?: string };
}

interface Chance { text: string; probability: number }
interface FeatureChange {
  node_id: string | null; layer: number; index: number; position: number; before: number; after: number; label?: string;
}

type Kind = "feature" | "error" | "token" | "logit";

interface GraphNode {
  /** Unique in the page; `fileId` is what the file calls it, which two nodes of an old file may share. */
  id: string;
  fileId: string;
  kind: Kind;
  type: string;
  position: number;
  layer: number;
  row: number;
  index: number | null;
  token: string;
  clerp: string;
  /** The token that the feature raises most, where the file says so. */
  topToken: string | null;
  /** Place in the order of influence, as the file's running total. */
  cumulative: number | null;
  /** Share of the influence on the answers that passes through the node: what its edges carry. Null: not known. */
  influence: number | null;
  activation: number | null;
  probability: number | null;
  isTarget: boolean;
  absent: number;
  output?: string;
}

interface Link {
  source: GraphNode;
  target: GraphNode;
  weight: number;
  influence: number | null;
  fraction: number;
}

interface Graph {
  slug: string;
  prompt: string;
  scan: any;
  tokens: string[];
  nodes: GraphNode[];
  byId: Map<string, GraphNode>;
  layers: number;
  links: Link[];
  /** The links, those with most influence on the answers first; by weight where influence is not known. */
  ranked: Link[];
  influenceKnown: boolean;
  hasErrors: boolean;
  held: number | null;
  total: number;
  curve: ScoreCurve | null;
  metadata: any;
  json: GraphFile;
  ours: any;
  inputs: Map<string, Link[]>;
  outputs: Map<string, Link[]>;
  totals: Map<string, number>;
}

interface Group { label: string; members: string[] }
interface Place { x: number; y: number; r: number; named?: boolean; room?: number }
interface View { scale: number; x: number; y: number }
interface Band { y: number; height: number }

interface Layout {
  width: number;
  height: number;
  columns: { x: number; width: number; token: string; position: number }[];
  rows: { layer: number; y: number; height: number }[];
  plot: { left: number; right: number; top: number; bottom: number };
  outputs: Band;
  inputs: Band;
  names: Band;
  /** How the names of tokens stand: "level", "slanted" or "upright". */
  lettering: string;
  pitch: number;
  places: Map<string, Place>;
}
