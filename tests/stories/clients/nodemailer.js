// Sends mails with Nodemailer and prints its results, as JSON. The argument is a file with a JSON object: folder (where
// the package is), transport (Nodemailer's options) and mails.
const { createRequire } = require("node:module");
const { readFileSync } = require("node:fs");

const task = JSON.parse(readFileSync(process.argv[2]));
const nodemailer = createRequire(task.folder + "/")("nodemailer");

async function main() {
  const transport = nodemailer.createTransport(task.transport);
  const results = await Promise.all(
    task.mails.map(async (mail) => {
      try {
        const sent = await transport.sendMail(mail);
        return { response: sent.response, accepted: sent.accepted, rejected: sent.rejected };
      } catch (error) {
        return { error: error.response ?? error.message, code: error.responseCode ?? 0 };
      }
    }),
  );
  transport.close();
  console.log(JSON.stringify(results));
}

main();
