// Accepts an invitation: makes an account with the token of the link, or signs
// in to the one that is there and shows the token. The token leaves the address
// bar at once, so that it stays in no history.
const token = new URLSearchParams(location.search).get("token") ?? "";
history.replaceState(null, "", location.pathname);
const at = (id) => document.getElementById(id);
let known = false;
let login = "";

at("known").addEventListener("click", (event) => {
  event.preventDefault();
  known = true;
  at("name").disabled = true;
  for (const element of [at("name"), at("name").previousElementSibling, document.querySelector(".hint"), at("known")]) element.hidden = true;
  at("password").autocomplete = "current-password";
  at("form").querySelector("button").textContent = "Sign in and accept";
});

async function post(path, body, bearer) {
  const headers = { "Content-Type": "application/json" };
  if (bearer) headers.Authorization = `Bearer ${bearer}`;
  const response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
  const text = await response.text();
  const answer = text ? JSON.parse(text) : {};
  if (!response.ok) throw new Error(answer.errors?.[0]?.message ?? answer.detail);
  return answer;
}

function done() {
  for (const id of ["form", "second", "known"]) at(id).hidden = true;
  at("answer").textContent = "You have joined. You can sign in now.";
}

// The session was for this one request.
async function accept(access) {
  await post("/access-control/invitations/accept", { token }, access);
  await post("/auth/logout", {}, access);
  done();
}

function on(form, send) {
  at(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    at("answer").textContent = "";
    try {
      await send();
    } catch (error) {
      at("answer").textContent = error instanceof TypeError ? "The form could not be sent. Check the connection and try again." : error.message;
    }
  });
}

on("form", async () => {
  const [email, password] = [at("email").value, at("password").value];
  if (!known) {
    const made = await post("/account/register", { full_name: at("name").value, email, password, invitation_token: token });
    await post("/auth/logout", {}, made.tokens.access);
    done();
    return;
  }
  const answer = await post("/auth/login", { identifier: email, password });
  if (answer.requires_2fa) {
    login = answer.session_id;
    at("form").hidden = true;
    at("second").hidden = false;
    at("code").focus();
    return;
  }
  await accept(answer.tokens.access);
});

on("second", async () => {
  const answer = await post("/auth/login-2fa-verify-code", { session_id: login, code: at("code").value });
  await accept(answer.tokens.access);
});
