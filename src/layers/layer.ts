/** What a layer is: an immutable tree or disk, named by a digest that is the same wherever it is computed. */
import * as z from 'zod';
import type { Engine } from '../engine/engine.js';

/** `blake3:<64 hex digits>`. */
export const digestSchema = z.string().regex(/^blake3:[0-9a-f]{64}$/);

/** A layer's human name: unique on a node, and free to differ between nodes. */
export const layerNameSchema = z
  .string()
  .max(64)
  .regex(
    /^[A-Za-z0-9][A-Za-z0-9._+:-]*$/,
    'a layer name is made of letters, digits and . _ + : - and begins with a letter or a digit',
  )
  .refine((name) => !name.startsWith('blake3:'), 'a layer name must not look like a digest');

/** `base`: guest OS and nothing else. `app`: the idle application and its data. */
export const layerKindSchema = z.enum(['base', 'app']);
export type LayerKind = z.infer<typeof layerKindSchema>;

/** `tree`: an overlayfs lower directory, for containers. `disk`: a disk or a part of one, for virtual machines. */
export const layerFormSchema = z.enum(['tree', 'disk']);
export type LayerForm = z.infer<typeof layerFormSchema>;

/** What the layer's digest covers. */
export interface LayerIdentity {
  kind: LayerKind;
  form: LayerForm;
  /** Digest of the layer below, upon which this one lies; null if it stands alone. */
  parent: string | null;
  /** Digest of the content (native/FORMATS.md, section 1): whiteouts and all of a tree, see disk-content.ts of a disk. */
  tree: string;
}

/** `layer.json`, beside the layer's `content/`. */
export const layerSchema = z.strictObject({
  format: z.literal(1),
  digest: digestSchema,
  kind: layerKindSchema,
  form: layerFormSchema,
  parent: digestSchema.nullable(),
  tree: digestSchema,
  files: z.int().nonnegative(),
  bytes: z.int().nonnegative(),
});
export type Layer = z.infer<typeof layerSchema>;

/**
 * The digest of a layer: that of the JSON text of {form, format, kind, parent, tree} with its keys in this (alphabetical)
 * order and no white space, which for these values is what RFC 8785 prescribes.
 */
export function layerDigest(engine: Engine, { kind, form, parent, tree }: LayerIdentity): string {
  return engine.digest(Buffer.from(JSON.stringify({ form, format: 1, kind, parent, tree })));
}
