/** What was used: call records and the hourly sums behind the dashboard. Nothing outside this folder reaches past this file. */
export { cleanLogs, type LogCleanUp, type LogCleanUpState } from './clean-logs.ts'
export {
  createHourlyReads,
  type Flow,
  type FlowDimension,
  type HourlyFilter,
  type HourlyReads,
  type ModelHour,
  type UserHour,
} from './hourly.ts'
export { createLogReads, LOG_TYPE, type LogFilter, type LogReads, type LogRow, type LogSums } from './logs.ts'
export {
  createModelCatalog,
  type Endpoint,
  type ModelCatalog,
  type ModelDescription,
  type Vendor,
} from './model-catalog.ts'
