// Files of the conformance suite's server. What the package has no choice for is `unsupported`.
import { DATA, HEAD, ITEM, Refused, Stream, frame, momentOf, raw, timeOf, told, wordOf } from './conformance-wire.mjs'

// What the methods of the package do: with missing directories above, in place of what is there,
// with what is below. The most paths of a search are its own.
const MAKE_DIR = { parents: true, mode: 0o755 }
const RENAME = { replace: true }
const REMOVE = { recursive: true, missing_ok: false }
const SET = { follow: true }
const GLOB = { limit: 100_000 }

const of = (sandbox, user) => (user ? sandbox.files.withUser(user) : sandbox.files)

/** Refuses what is asked for in another way than the package does it. */
function only(asked, had) {
  for (const [name, value] of Object.entries(had)) {
    if (asked[name] === value) continue
    throw new Refused('unsupported', `${name} is ${value} in this package, and cannot be ${asked[name]}`)
  }
}

const entryOf = (entry) => ({
  path: wordOf(entry.path, entry.pathBytes),
  kind: entry.type === 'dir' ? 'directory' : entry.type,
  size: entry.size,
  mode: entry.mode,
  uid: entry.uid,
  gid: entry.gid,
  modified: timeOf(entry.modifiedTime),
  target: entry.symlinkTarget === null ? null : wordOf(entry.symlinkTarget, entry.symlinkTargetBytes),
  user: entry.owner,
  group: entry.group,
})

const entries = (found) => new Stream(found.map((one) => told(ITEM, entryOf(one))))

const operations = {
  stat: async (files, { path, follow }) => ({ entry: entryOf(await files.getInfo(raw(path), { follow })) }),
  list: async (files, { path, depth }) => entries(await files.list(raw(path), { depth })),
  async make_dir(files, asked) {
    only(asked, MAKE_DIR)
    await files.makeDir(raw(asked.path))
  },
  async rename(files, asked) {
    only(asked, RENAME)
    await files.rename(raw(asked.from), raw(asked.to))
  },
  async remove(files, asked) {
    only(asked, REMOVE)
    await files.remove(raw(asked.path))
  },
  async set_attributes(files, asked) {
    only(asked, SET)
    const { path, recursive, attributes } = asked
    const { mode, owner, group, modified } = attributes
    const set = [owner !== null || group !== null, mode !== null, modified !== null]
    if (set.filter(Boolean).length > 1) {
      throw new Refused('unsupported', 'the package sets mode, owner or time, one of them at a time')
    }
    if (modified !== null) await files.setModifiedTime(raw(path), momentOf(modified), { recursive })
    else if (mode !== null) await files.chmod(raw(path), mode, { recursive })
    else await files.chown(raw(path), owner, group, { recursive })
  },
  async glob(files, asked) {
    only(asked, GLOB)
    return entries(await files.glob(raw(asked.pattern)))
  },
  link: (files, { target, path }) => files.symlink(raw(target), raw(path)),
}

/** A file operation without data. */
export async function operate(sandbox, { user, operation }) {
  const [[name, asked]] = Object.entries(operation)
  return (await operations[name](of(sandbox, user), asked)) ?? {}
}

export async function read(sandbox, asked) {
  const [files, path] = [of(sandbox, asked.user), raw(asked.path)]
  // No file is longer than a number can say.
  const most = (number) => Math.min(number, Number.MAX_SAFE_INTEGER)
  const length = asked.length === null ? undefined : most(asked.length)
  const stream = await files.read(path, { format: 'stream', offset: most(asked.offset), length })
  const head = entryOf(await files.getInfo(path, { follow: true }))
  const frames = async function* () {
    yield told(HEAD, head)
    for await (const piece of stream) yield frame(DATA, piece)
  }
  return new Stream(frames(), () => stream.destroy())
}

export async function write(sandbox, source) {
  const { user, path, how, mode, parents } = await source.head()
  const [files, pieces] = [of(sandbox, user), source.uploaded()]
  if (how === 'replace' && parents) return entryOf(await files.write(raw(path), pieces, { mode: mode ?? undefined }))
  // What is refused is refused after all of it: whoever gives it up sees that nothing was done.
  const kept = []
  for await (const piece of pieces) kept.push(piece)
  if (how === 'append' && parents && mode === null) return entryOf(await files.append(raw(path), Buffer.concat(kept)))
  throw new Refused('unsupported', `the package has no ${how} with the mode ${mode} and parents ${parents}`)
}

export async function exported(sandbox, { user, path, contents, follow }) {
  const archive = await of(sandbox, user).exportTar(raw(path), { contents, follow })
  const frames = async function* () {
    for await (const piece of archive) yield frame(DATA, piece)
  }
  return new Stream(frames(), () => archive.destroy(), () => archive.leftOut)
}

export async function imported(sandbox, source) {
  const { user, path, parents, keep_owner: keepOwner } = await source.head()
  await of(sandbox, user).importTar(raw(path), source.uploaded(), { parents, keepOwner })
}

export async function watch(sandbox, { user, path, recursive }) {
  const watching = await of(sandbox, user).watchDir(raw(path), { recursive })
  const frames = async function* () {
    for await (const { type, name, nameBytes } of watching) yield told(ITEM, { kind: type, path: wordOf(name, nameBytes) })
  }
  return new Stream(frames(), () => watching.stop())
}
