import type { SandboxInfo as Info } from '../../native/index.js'
import { invalid } from '../call.js'
import { Sandbox as Machine } from '../sandbox.js'
import { asked } from './errors.js'
import { infoOf, stateOf, wanted } from './options.js'
import type { SandboxApiOpts, SandboxInfo, SandboxListOpts } from './types.js'

/** Sandboxes of a page. */
const PAGE = 100

/** Where a sandbox stands in the order of creation. */
const place = (info: Info) => `${info.created.toISOString()} ${info.id}`

/** Sandboxes, page by page: those that were there at its first page. */
export class SandboxPaginator {
  readonly #opts: SandboxListOpts
  #token: string | undefined
  #infos: Info[] | undefined
  #hasNext = true

  /** @internal */
  constructor(opts: SandboxListOpts) {
    this.#opts = opts
    this.#token = opts.nextToken
  }

  /** Whether there are more. */
  get hasNext(): boolean {
    return this.#hasNext
  }

  /** Where another paginator of the same query would go on. */
  get nextToken(): string | undefined {
    return this.#token
  }

  /** The next page. */
  async nextItems(opts?: SandboxApiOpts): Promise<SandboxInfo[]> {
    if (!this.#hasNext) throw new Error('No more items to fetch')
    const { query, order, limit, nextToken, ...others } = this.#opts
    return asked({ ...others, ...opts }, [], async () => {
      const size = limit ?? PAGE
      if (!(Number.isInteger(size) && size > 0)) throw invalid('limit', 'a whole number, 1 or more')
      this.#infos ??= await this.#all()
      const page = this.#infos.splice(0, size)
      this.#hasNext = this.#infos.length > 0
      this.#token = this.#hasNext ? Buffer.from(place(page.at(-1)!)).toString('base64url') : undefined
      return page.map((info) => infoOf(info, stateOf(info)!))
    }, { control: true })
  }

  async #all(): Promise<Info[]> {
    const { query, order } = this.#opts
    const infos: Info[] = []
    for await (const info of Machine.list({ metadata: query?.metadata })) if (wanted(query, info)) infos.push(info)
    const turn = order === 'asc' ? 1 : -1
    const compare = (one: string, other: string) => (one < other ? -turn : one > other ? turn : 0)
    infos.sort((one, other) => compare(place(one), place(other)))
    if (this.#token === undefined) return infos
    const at = Buffer.from(this.#token, 'base64url').toString()
    if (!/^\d{4}-\S+Z \S+$/.test(at)) throw invalid('nextToken', 'the `nextToken` of another paginator')
    return infos.filter((info) => compare(place(info), at) > 0)
  }
}
