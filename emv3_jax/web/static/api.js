// What the page asks of its server. Errors are Errors with the server's words.

async function answered(response) {
  let body = {};
  try { body = await response.json(); } catch { body = {}; }
  if (!response.ok) {
    const words = { 401: "This browser's session has ended. Open the address that the server printed last." };
    const error = new Error(body.error || words[response.status] || `The server answers ${response.status}.`);
    error.status = response.status;
    throw error;
  }
  return body;
}

const encoded = encodeURIComponent;

export const status = async () => answered(await fetch("/api/status"));
export const form = async () => answered(await fetch("/api/form"));
export const history = async () => answered(await fetch("/api/history"));
export const add = async (job) => answered(await fetch("/api/jobs", {
  method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(job) }));
export const act = async (name, action) => answered(await fetch(`/api/jobs/${encoded(name)}/${action}`, { method: "POST" }));
export const remove = async (name) => answered(await fetch(`/api/clips/${encoded(name)}`, { method: "DELETE" }));
export const findFace = async (upload) => answered(await fetch(`/api/face/${encoded(upload)}`, { method: "POST" }));
export const puppet = async (number) => answered(await fetch(`/api/puppets/${number}`, { method: "POST" }));

export const LIMITS = { portrait: 64, last: 64, voice: 256, video: 512 };  // MiB, as the server has them

export async function upload(kind, blob, name) {
  if (blob.size > LIMITS[kind] * 2 ** 20) {
    throw new Error(`The file has ${Math.round(blob.size / 2 ** 20)} MiB; at most ${LIMITS[kind]} MiB are taken.`);
  }
  return answered(await fetch(`/api/uploads/${kind}`, {
    method: "POST", body: blob, headers: { "content-type": "application/octet-stream", "x-file-name": encoded(name || kind) } }));
}

export const uploadUrl = (upload) => `/api/uploads/${encoded(upload.id)}`;
export const videoUrl = (name) => `/api/clips/${encoded(name)}/video`;
export const previewUrl = (job) => `/api/jobs/${encoded(job.name)}/preview?${job.preview}`;
