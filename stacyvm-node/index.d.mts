export * from './dist/index.js'
export { Sandbox as default } from './dist/index.js'
