import { nodeOfReplica, type ReplicaInfo } from '../placement/map.js';
import { isJoint, type ConfigChange } from '../raft/config.js';
import type { Config, ReplicaId } from '../raft/types.js';

/**
 * The next step from the configuration that a group has to the replicas that it should have; undefined if there is none to take
 * now. `isReady` says whether a learner has nearly all of the log, or all but the latest.
 *
 * 1. Whoever is new becomes a learner: it takes part in no decision while it copies what there is.
 * 2. When all that are to vote are ready, they become voters and those that should go go, in one (joint) change: there is no
 *    moment with fewer voters, or with an even number of them.
 *
 * A node holds one replica of a bucket at a time. Where one votes already that one is meant, whatever id the placement has for
 * the node: it came back before its replica had gone. A learner of another id goes first: a leader of an older placement may
 * have added it, and its node may have had and lost a replica of that id, which never comes back.
 */
export function nextChange(
  config: Config,
  placed: readonly ReplicaInfo[],
  isReady: (id: ReplicaId) => boolean,
): readonly ConfigChange[] | undefined {
  if (isJoint(config)) return undefined;
  const target = placed.map((replica) => ({ ...replica, id: voterOn(config, replica.node) ?? replica.id }));
  const voters = target.filter(({ learner }) => !learner).map(({ id }) => id);
  const learners = target.filter(({ learner }) => learner).map(({ id }) => id);
  const wanted = new Set([...voters, ...learners]);
  const present = new Set([...config.voters, ...config.learners]);
  const missing = [...wanted].filter((id) => !present.has(id));
  if (missing.length > 0) {
    const nodes = new Set(missing.map(nodeOfReplica));
    const inTheWay = config.learners.filter((id) => nodes.has(nodeOfReplica(id)));
    return inTheWay.length > 0 ? inTheWay.map((id) => ({ remove: id })) : missing.map((id) => ({ addLearner: id }));
  }
  const promoted = voters.filter((id) => !config.voters.includes(id));
  if (!promoted.every(isReady)) return undefined;
  const demoted = learners.filter((id) => config.voters.includes(id));
  const gone = [...present].filter((id) => !wanted.has(id));
  const changes: ConfigChange[] = [
    ...promoted.map((id) => ({ addVoter: id })),
    ...demoted.map((id) => ({ addLearner: id })),
    ...gone.map((id) => ({ remove: id })),
  ];
  return changes.length === 0 ? undefined : changes;
}

/** The group has a replica on every node where one should be, of the kind that it should be, and on no others. */
export function isSettled(config: Config, placed: readonly ReplicaInfo[]): boolean {
  const count = config.voters.length + config.learners.length;
  if (isJoint(config) || count !== placed.length) return false;
  return placed.every(({ node, learner }) => {
    return (learner ? config.learners : config.voters).some((id) => nodeOfReplica(id) === node);
  });
}

function voterOn({ voters }: Config, node: number): ReplicaId | undefined {
  return voters.find((id) => nodeOfReplica(id) === node);
}
