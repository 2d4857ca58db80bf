// Requests to the server. A refusal is thrown as an Error whose message is the server's sentence.

export class Refused extends Error {
  constructor(sentence, status) { super(sentence); this.status = status; }
}

async function answered(response) {
  const body = await response.json().catch(() => ({ error: `${response.status}` }));
  if (!response.ok && response.status !== 409) throw new Refused(body.error ?? `${response.status}`, response.status);
  return body;
}

export const get = (path) => fetch(path).then(answered);
export const post = (path, value) =>
  fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value) }).then(answered);
export const upload = (file) =>
  fetch(`/api/dropped?name=${encodeURIComponent(file.name)}`, { method: "POST", body: file }).then(answered);
