/** What a node does beyond serving calls. The sole place that looks at `NODE_TYPE`. */

export interface Role {
  readonly name: 'master' | 'slave'
  /** Brings the schema up to date at start, instead of waiting until it is. */
  readonly migrates: boolean
  /** Runs the jobs of which the cluster needs one. */
  readonly runsMasterJobs: boolean
  /** Sends page requests to the public front end, if one is configured. */
  readonly redirectsPages: boolean
}

const MASTER: Role = { name: 'master', migrates: true, runsMasterJobs: true, redirectsPages: false }
const SLAVE: Role = { name: 'slave', migrates: false, runsMasterJobs: false, redirectsPages: true }

/** Exactly the text `slave` makes a slave; everything else, also nothing, a master. */
export function roleOf(nodeType: string): Role {
  return nodeType === 'slave' ? SLAVE : MASTER
}
