// An OpenID provider for tests: oidc-provider, which is certified, with nobody to type a password. Who logs in, and how, it
// is told on standard input, a line each: SUBJECT [METHOD...]. On standard output it says its issuer, once.
//
//   node provider.mjs KEY.pem CERTIFICATE.pem SECRET
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import { Provider } from 'oidc-provider';

// It has notices for who deploys it; what is said here is read by a program.
const say = (line) => process.stdout.write(`${line}\n`);
console.info = console.warn = () => {};

const [key, cert] = process.argv.slice(2, 4).map((path) => readFileSync(path));
const secret = process.argv[4];
let [subject, ...methods] = ['nobody'];

const server = createServer({ key, cert });
server.listen(0, '127.0.0.1', () => {
  const issuer = `https://localhost:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [
      {
        client_id: 'holm',
        client_secret: secret,
        token_endpoint_auth_method: 'client_secret_basic',
        grant_types: ['urn:ietf:params:oauth:grant-type:device_code'],
        response_types: [],
        redirect_uris: [],
      },
    ],
    features: { deviceFlow: { enabled: true }, devInteractions: { enabled: false } },
    claims: { openid: ['sub', 'acr', 'amr', 'auth_time'] },
    cookies: { keys: ['for tests'] },
    ttl: { DeviceCode: 600, Grant: 600, IdToken: 300, Interaction: 600, Session: 600 },
    findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
    interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  });
  const handle = provider.callback();
  server.on('request', async (request, response) => {
    if (!request.url.startsWith('/interaction/')) return handle(request, response);
    try {
      const { prompt, session, grantId, params } = await provider.interactionDetails(request, response);
      if (prompt.name === 'login') {
        const login = { accountId: subject, amr: methods, remember: false };
        return await provider.interactionFinished(request, response, { login });
      }
      const grant = grantId
        ? await provider.Grant.find(grantId)
        : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
      grant.addOIDCScope('openid');
      const consent = { grantId: await grant.save() };
      return await provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
    } catch (error) {
      response.statusCode = 500;
      return response.end(String(error));
    }
  });
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      [subject, ...methods] = line.split(' ');
      say(`as ${subject}`);
    })
    .on('close', () => process.exit(0));
  say(issuer);
});
