import { FilePurpose, FileService, type File as StoredFile } from '#gen/mlxmesh/job/v1/file_pb.ts';
import { clientOf } from '#lib/api/index.ts';

const PIECE_BYTES = 512 * 1024;

/** Stores a file of this computer for batches, piece by piece. A failure leaves nothing behind. */
export async function upload(file: File, onprogress: (sentBytes: number) => void): Promise<StoredFile | undefined> {
  const files = clientOf(FileService);
  const created = await files.createFile({ name: file.name, purpose: FilePurpose.BATCH, mediaType: 'application/jsonl' });
  const fileId = created.file?.fileId ?? '';
  try {
    for (let offset = 0; offset < file.size; offset += PIECE_BYTES) {
      const data = new Uint8Array(await file.slice(offset, offset + PIECE_BYTES).arrayBuffer());
      await files.appendFile({ fileId, offset: BigInt(offset), data });
      onprogress(offset + data.length);
    }
    return (await files.finishFile({ fileId, sizeBytes: BigInt(file.size) })).file;
  } catch (thrown) {
    await files.deleteFile({ fileId }).catch(() => undefined);
    throw thrown;
  }
}

/** Reads a stored file and has the browser save it. */
export async function download(fileId: string, name: string): Promise<void> {
  const parts: BlobPart[] = [];
  for await (const { data } of clientOf(FileService).readFile({ fileId })) parts.push(new Uint8Array(data));
  const url = URL.createObjectURL(new Blob(parts, { type: 'application/octet-stream' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
