/* Reads what payload.py packs, and keeps each blob decoded, under its digest, for as long as the page lives. */

function openPayload(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(bytes.subarray(4, 4 + length)));
  const body = bytes.subarray(4 + length);
  for (const blob of header.blobs) {
    blobStore().accept(blob.name, blob.kind, body.subarray(blob.offset, blob.offset + blob.length));
  }
  return header.props;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decodeBlob(kind, bytes) {
  if (kind === "image") return createImageBitmap(new Blob([bytes]));
  const raw = await inflate(bytes);
  return kind === "float32" ? new Float32Array(raw.buffer) : raw;
}

function sizeOf(value) {
  return value.byteLength ?? value.width * value.height * 4;
}

class BlobStore {
  constructor(limit) {
    this.limit = limit;
    this.entries = new Map(); // name -> {promise, value, size}; the least recently used first
    this.users = new Map(); // owner -> Set of names that must stay
    this.awaited = new Map(); // name that is not here yet -> {promise, resolve}
  }

  accept(name, kind, bytes) {
    if (this.entries.has(name)) return;
    const entry = { value: undefined, size: 0, promise: null };
    // A copy: `bytes` is a view into the whole message, which would be kept alive.
    entry.promise = decodeBlob(kind, bytes.slice()).then((value) => {
      entry.value = value;
      entry.size = sizeOf(value);
      this.evict();
      return value;
    });
    entry.promise.catch(() => {});
    this.entries.set(name, entry);
    this.awaited.get(name)?.resolve(entry.promise);
    this.awaited.delete(name);
  }

  value(name) {
    const entry = this.entries.get(name);
    if (!entry) return undefined;
    this.entries.delete(name);
    this.entries.set(name, entry);
    return entry.value;
  }

  /* Holds `names` for `owner` and returns those that are not here. */
  hold(owner, names) {
    this.users.set(owner, new Set(names));
    return [...new Set(names)].filter((name) => !this.entries.has(name));
  }

  release(owner) {
    this.users.delete(owner);
  }

  settled(names) {
    return names.every((name) => this.entries.get(name)?.value !== undefined);
  }

  /* The values of `names`, each as soon as any component brings it; undefined for an empty name. */
  ready(names) {
    return Promise.all(names.map((name) => (name ? (this.entries.get(name)?.promise ?? this.arrival(name)) : undefined)));
  }

  arrival(name) {
    if (!this.awaited.has(name)) {
      let resolve;
      const promise = new Promise((done) => { resolve = done; });
      this.awaited.set(name, { promise, resolve });
    }
    return this.awaited.get(name).promise;
  }

  evict() {
    const held = new Set([...this.users.values()].flatMap((names) => [...names]));
    let total = [...this.entries.values()].reduce((sum, entry) => sum + entry.size, 0);
    for (const [name, entry] of [...this.entries]) {
      if (total <= this.limit) return;
      if (held.has(name) || entry.value === undefined) continue;
      entry.value.close?.();
      this.entries.delete(name);
      total -= entry.size;
    }
  }
}

/* One store for all components of the page: what the gallery has decoded, the viewer need not decode again. */
function blobStore() {
  const name = Symbol.for("lag.blobs");
  globalThis[name] ??= new BlobStore(96 * 2 ** 20);
  return globalThis[name];
}

/* Asks the server for blobs that it believes were sent. A question or its answer may be lost (Streamlit drops a message
   that a newer one replaces, and another component may have brought the blobs): after a while `again` looks once more. */
class MissingBlobs {
  constructor(node, again) {
    this.node = node;
    this.again = again;
    this.asked = new Map(); // name -> how often
    this.timer = null;
  }

  request(names, setTriggerValue) {
    this.stop();
    const due = names.filter((name) => (this.asked.get(name) ?? 0) < 6);
    if (!due.length) return;
    for (const name of due) this.asked.set(name, (this.asked.get(name) ?? 0) + 1);
    this.timer = setTimeout(this.again, 500 * 2 ** Math.max(...due.map((name) => this.asked.get(name))));
    tell(this.node, () => setTriggerValue("missing", due));
  }

  /* Nothing is missing any more: what is lost later is asked for anew. */
  found() {
    this.stop();
    this.asked.clear();
  }

  stop() {
    clearTimeout(this.timer);
  }
}
