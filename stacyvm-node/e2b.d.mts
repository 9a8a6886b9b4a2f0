export * from './dist/e2b/index.js'
export { Sandbox as default } from './dist/e2b/index.js'
