/** The nodes as a whole: who is there, and who does what there must be one of. */
export { type Agreement, type AgreementDeps, createAgreement } from './agreement.ts'
export { type Difference, type NodeSettings, readDifferences, settingsInfo } from './differences.ts'
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
export { createInstances, type InstanceInfo, type InstanceState, type Instances, WORKING_STATES } from './instances.ts'
export { createTakeTurn, type TakeTurn, type Turn, type TurnOutcome, type TurnRequest } from './leases.ts'
export { type Claim, createSystemTasks, type SystemTask, type SystemTasks, type TaskEnd } from './tasks.ts'
