import type { BucketId, NodeId } from '../../placement/map.js';
import type { SimCluster } from '../cluster.js';

/** A frame from one process to another. Without `arrivedMs` it was lost, or nobody read it. */
export interface Frame {
  readonly from: string;
  readonly to: string;
  readonly bytes: number;
  readonly sentMs: number;
  arrivedMs: number | undefined;
}

/** Something that was so for a while. */
export interface Phase {
  readonly who: string;
  readonly what: 'down' | 'starting' | 'paused' | 'leads' | 'cut';
  /** Of `leads`: which bucket, in which term. Of `cut`: from whom nothing comes. */
  readonly detail: string;
  readonly bucket: BucketId | undefined;
  readonly fromMs: number;
  toMs: number;
}

export interface Commit {
  readonly who: string;
  readonly bucket: BucketId;
  readonly index: number;
  readonly atMs: number;
}

/** Frames that are remembered: beyond it every second one of those that arrived in good time is forgotten. */
const FRAMES_MAX = 40_000;
const COMMITS_MAX = 20_000;
const SLOW_MS = 60;
/** Phases are looked for this often, which is shorter than any that matters. */
const LOOK_MS = 2;

/** Watches a simulated world for its diagram, without touching it. */
export class DiagramRecord {
  readonly faults: { readonly atMs: number; readonly text: string }[] = [];
  readonly commits: Commit[] = [];
  readonly phases: Phase[] = [];
  frames: Frame[] = [];
  readonly #cluster: SimCluster;
  readonly #open = new Map<string, Phase>();
  readonly #commitOf = new Map<string, number>();
  #keepOneOf = 1;
  #seen = 0;
  #nextLookMs = 0;

  constructor(cluster: SimCluster) {
    this.#cluster = cluster;
    const { loop, network, log } = cluster;
    network.onSend = (from, to, bytes) => {
      const frame: Frame = { from, to, bytes, sentMs: loop.nowMs, arrivedMs: undefined };
      this.#seen += 1;
      // The others are kept if they turn out to be slow.
      const isKept = this.#seen % this.#keepOneOf === 0;
      if (isKept) this.#keep(frame);
      return () => {
        frame.arrivedMs = loop.nowMs;
        if (!isKept && isSlow(frame)) this.#keep(frame);
      };
    };
    loop.onAdvance = () => {
      if (loop.nowMs < this.#nextLookMs) return;
      this.#nextLookMs = loop.nowMs + LOOK_MS;
      this.#look();
    };
    log.onLine = (line) => {
      if (line.includes(' fault ')) this.faults.push({ atMs: loop.nowMs, text: line });
    };
  }

  get endMs(): number {
    return this.#cluster.loop.nowMs;
  }

  get nodes(): readonly string[] {
    return this.#cluster.ids.map((id) => `n${id}`);
  }

  #keep(frame: Frame): void {
    this.frames.push(frame);
    if (this.frames.length < FRAMES_MAX) return;
    this.#keepOneOf *= 2;
    this.frames = this.frames.filter((each, at) => at % 2 === 0 || isSlow(each));
  }

  #look(): void {
    const nowMs = this.#cluster.loop.nowMs;
    const present = new Set<string>();
    const note = (who: string, what: Phase['what'], detail = '', bucket?: BucketId): void => {
      const name = `${who} ${what} ${detail}`;
      present.add(name);
      const known = this.#open.get(name);
      if (known !== undefined) {
        known.toMs = nowMs;
        return;
      }
      const phase: Phase = { who, what, detail, bucket, fromMs: nowMs, toMs: nowMs };
      this.#open.set(name, phase);
      this.phases.push(phase);
    };
    for (const id of this.#cluster.ids) this.#lookAt(id, note);
    for (const name of this.#open.keys()) if (!present.has(name)) this.#open.delete(name);
  }

  #lookAt(id: NodeId, note: (who: string, what: Phase['what'], detail?: string, bucket?: BucketId) => void): void {
    const cluster = this.#cluster;
    const who = `n${id}`;
    for (const other of cluster.ids) {
      if (other !== id && cluster.network.isCut(`n${other}`, who)) note(who, 'cut', `n${other}`);
    }
    if (cluster.isDown(id)) return note(who, 'down');
    if (!cluster.running(id)) return note(who, 'starting');
    if (cluster.process(id).paused) note(who, 'paused');
    for (const { bucket, raft, isLeader } of cluster.node(id).hosting.replicas.values()) {
      if (!isLeader) continue;
      note(who, 'leads', `bucket ${bucket} in term ${raft.term}`, bucket);
      const name = `${bucket}/${raft.term}`;
      const before = this.#commitOf.get(name) ?? raft.commitIndex;
      this.#commitOf.set(name, raft.commitIndex);
      if (raft.commitIndex <= before || this.commits.length >= COMMITS_MAX) continue;
      this.commits.push({ who, bucket, index: raft.commitIndex, atMs: cluster.loop.nowMs });
    }
  }
}

export function isSlow({ sentMs, arrivedMs }: Frame): boolean {
  return arrivedMs === undefined || arrivedMs - sentMs > SLOW_MS;
}
