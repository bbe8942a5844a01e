/** The nodes as a whole: who is there, and who does what there must be one of. */
export { createInstances, type InstanceInfo, type InstanceState, type Instances, WORKING_STATES } from './instances.ts'
export { createUnderLease, type UnderLease } from './leases.ts'
