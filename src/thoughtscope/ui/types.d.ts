// What the server sends and what the page makes of it, for readers and for `tsc --checkJs`. Nothing here runs.

/** GET api/session. */
interface Session {
  version: string;
  model: { name?: string; n_layers?: number; d_model?: number; dtype?: string; device?: string;
    /** Whether it has a chat template. */ chat?: boolean } | null;
  dictionary: { name?: string; n_features?: number } | null;
  graphs: GraphSummary[];
  example_prompts: string[];
  /** Files of the work folder that could not be read, and why. */
  problems?: Problem[];
}

interface Problem { file: string; why: string }

/** What a trace will take: the error `costly` of POST api/trace carries it. Sizes in bytes. */
interface Price {
  n_nodes: number;
  n_edges: number;
  memory: number;
  device_memory: number;
  file: number;
  seconds: number;
}

/** What a conversation is made of, as it is sent. */
interface Message { role: string; content: string }

/** Tokens `start` to `end` of a prompt are one speaker's; of them `from` to `to` hold what is said. */
interface Turn { role: string; text: string; start: number; end: number; from: number; to: number; added: boolean }

/** A feature as POST api/readings, api/like and GET api/search tell it; what is not known is null. */
interface TalkFeature {
  part: string;
  index: number;
  label: string | null;
  /** The largest activation that is known of it, and whence: examples of its dictionary, or this conversation. */
  largest: number | null;
  measured?: "examples" | "here";
  density: number | null;
  /** Tokens at which its examples peak. */
  tokens: string[] | null;
}

/** A feature that was found, by words (`matched`, `what`) or by an example (`value`, `share`, `token`). */
interface FoundFeature extends TalkFeature {
  matched?: "label" | "token"; what?: string;
  value?: number; share?: number | null; token?: number;
}

/** A feature that an answer rests on, from POST api/effects, in logits of the answer over the mean logit. */
interface FoundEffect extends TalkFeature {
  /** What it gives to the answer, to first order, over all tokens. */
  attribution: number;
  /** How the answer changes without it; null for a feature that was not tried. */
  ablation: number | null;
  /** The token at which it gives most. */
  token: number;
}

/** POST api/readings: the strongest features of each token. */
interface Reading {
  tokens: string[];
  turns: any[];
  features: Record<string, TalkFeature>;
  at: { id: string; value: number; share: number | null }[][];
  /** Of features that were chosen, the activation at each token, from POST api/activations. */
  followed?: Record<string, number[]>;
}

/** One side's answer in an exchange. */
interface Answer {
  state: "running" | "done" | "stopped" | "error";
  text: string;
  /** Its tokens and the prompt's, as they came, and whether more may come. */
  written: { tokens: string[], turns: any[], growing?: boolean } | null;
  /** What was turned. */ turned: Turning[];
  /** Tokens that came. */ count: number;
  /** Whether the model itself ended it. */ ended: boolean;
  error: string | null;
  /** What was asked, as it was sent: whether the same question would give the same answer. */ asked: string;
  reading: Reading | null;
  /** Why there is no reading. */ unread: string | null;
}

/** One speaker's tokens: those of the template before and after, and what is said in spans of whole characters. */
interface SpokenPart {
  role: string; added: boolean;
  before: number[]; spans: { text: string, from: number, to: number }[]; after: number[];
}

interface Exchange { user: string; plain: Answer | null; turned: Answer | null }

/** A feature that is set to a multiple of its largest activation. */
interface Turning {
  id: string; part: string; index: number; multiple: number;
  /** The largest activation that was met here when it was turned; null where examples say it. */
  unit: number | null;
}

/** A token of the conversation on the page: exchange, side, and number in that side's reading. */
interface TokenPlace { exchange: number; side: "plain" | "turned"; token: number }

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
  /** By link, in their order: how much influence on the answers it carries. */
  edge_influence?: number[] | null;
  /** By node, in their order: its share of all influence on the answers; null for outputs. */
  influence_share?: (number | null)[] | null;
  /** Supernodes that a rule named when the graph was made, with their members and how sure the names are. */
  named_by_rule?: NamedGroup[] | null;
  /** Features to change first, and the token where they stand. */
  suggested?: { position: number; nodes: string[] } | null;
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

interface NamedGroup { label: string; members: string[]; why: string }

interface Prediction {
  direction: "up" | "down";
  /** Null where nothing could be tested, or there was nothing to compare with. */
  confirmed: boolean | null;
  /** Change of the answer's centred logit that the graph predicts, and the one that was measured. */
  change?: number | null;
  measured?: number | null;
  /** What the change must exceed to be confirmed: what counts as none, or the control's largest. */
  threshold?: number | null;
}

/** The same change on random features of equal number and strength, several times. */
interface Control {
  /** Changes of the answer's centred logit. */
  changes: number[];
  largest: number | null;
  n: number;
  /** Why none could be drawn. */
  reason: string | null;
}

/** POST api/graphs/{slug}/score: both scores null where `why_unscored` says why. */
interface CircuitScores { replacement: number | null; completeness: number | null; why_unscored: string | null }

/** POST api/intervene. */
interface Outcome {
  before: { top: Chance[] };
  after: { top: Chance[] };
  kl: number;
  answer: string | { text: string };
  rank_before: number;
  rank_after: number;
  prediction?: Prediction | null;
  control?: Control | null;
  verdict?: { name: "confirmed" | "no_stronger" | "not_compared" | "refuted" | "untested"; text: string };
  /** The strongest token beside the answer, and the answer's logit less its own, before and after. */
  rival?: { text: string; difference_before: number; difference_after: number };
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
  /** Its share of all influence on the answers. Null: not known. */
  influence: number | null;
  activation: number | null;
  probability: number | null;
  isTarget: boolean;
  absent: number;
  output?: string;
  /** It stands at a token that is only the chat template's. */
  template: boolean;
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
  /** Whether it is a picture of a graph in the making, which is kept nowhere yet. */
  partial?: boolean;
  /** Whether it takes the place of an earlier picture, whose nodes keep their places. */
  follows?: boolean;
  prompt: string;
  /** What a person reads as the prompt: of a conversation, who says what. */
  heading: string;
  scan: any;
  tokens: string[];
  turns: Turn[];
  /** By token: true where it is only the chat template's. */
  folded: boolean[];
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
  /** The share of the influence whose nodes are shown at first. */
  opening: number;
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
  columns: { x: number; width: number; token: string; position: number; folded: boolean }[];
  rows: { layer: number; y: number; height: number }[];
  plot: { left: number; right: number; top: number; bottom: number };
  outputs: Band;
  inputs: Band;
  names: Band;
  roles: Band;
  turns: Turn[];
  /** How the names of tokens stand: "level", "slanted" or "upright". */
  lettering: string;
  pitch: number;
  places: Map<string, Place>;
}
