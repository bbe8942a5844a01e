/** The nodes as a whole: who is there, and who does what there must be one of. */
export { type Agreement, type AgreementDeps, createAgreement } from './agreement.ts'
export { pruneInstances } from './clean-up.ts'
export {
  createDependencies,
  type Dependencies,
  type Dependency,
  type DependencyState,
} from './dependencies.ts'
export {
  type Candidate,
  type Difference,
  type NodeSettings,
  nodeSettings,
  readDifferences,
  settingsInfo,
} from './differences.ts'
export {
  type Agreed,
  ALIKE,
  type ConfiguredSecrets,
  deriveSecrets,
  differingFrom,
  type Fingerprints,
  nodesWithout,
  type OwnSecrets,
  openSalt,
  type Peer,
  readAgreed,
  readPeers,
  readSalt,
  secretInfo,
} from './fingerprints.ts'
export { createHeartbeat, type Heartbeat } from './heartbeat.ts'
export {
  createInstances,
  type InstanceInfo,
  type InstanceState,
  type Instances,
  type SeenInstance,
  WORKING_STATES,
} from './instances.ts'
export { createTakeTurn, type TakeTurn, type Turn, type TurnOutcome, type TurnRequest } from './leases.ts'
export { findLivingNodes } from './living.ts'
export {
  createLoadGuard,
  LOOK_AGAIN_SEC,
  type Load,
  type LoadGuard,
  type LoadThresholds,
  type Overload,
} from './load-guard.ts'
export { createNodeStatus, type NodeLoad, type NodeStatus, type OwnStatus } from './node-status.ts'
export { createPresence, type Presence } from './presence.ts'
export { createNodeRegistry, type NodeInfo, type NodeRegistry, nodeInfo, type RegisteredNode } from './registry.ts'
export { keepRenewed, type Renewal } from './renewal.ts'
export { type Claim, createSystemTasks, type SystemTask, type SystemTasks, type TaskEnd } from './tasks.ts'
export { type ClusterView, readClusterView, readNodes } from './view.ts'
export { createWatch, type Silent, type Watch } from './watch.ts'
