// A client of one tenant, typed by the tenant API's own document: a path, a
// field or a status that does not exist is an error of the compiler.
import createClient, { type Middleware } from "openapi-fetch";
import type { components, paths } from "./api.js";

export type Problem = components["schemas"]["Problem"];

/** A client of the tenant at the address, such as https://acme.example.com. */
export function tenantClient(baseUrl: string) {
  const client = createClient<paths>({ baseUrl });
  let token: string | undefined;
  const headers: Middleware = {
    onRequest({ request }) {
      if (token) request.headers.set("Authorization", `Bearer ${token}`);
      return request;
    },
  };
  client.use(headers);
  return Object.assign(client, {
    signInWith(access: string) {
      token = access;
    },
  });
}
