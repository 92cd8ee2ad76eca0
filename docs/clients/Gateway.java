import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.Timer;
import java.util.TimerTask;
import java.util.regex.Pattern;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/**
 * A client of Sluicegate in Java 17 or later, with nothing but the JDK:
 *
 * <pre>
 * java Gateway.java pay ORDER FROM TO AMOUNT   pays once, however often it is run for the same order
 * java Gateway.java cancel ID                  takes a transaction back that was not submitted yet
 * java Gateway.java watch [COUNT]              tells of every transaction that settles, from now on
 * java Gateway.java verify                     checks a webhook: its body on stdin, its headers in the environment
 * </pre>
 *
 * SLUICEGATE_URL is the gateway, SLUICEGATE_TOKEN an API key or a JWT, if it asks for one.
 *
 * The JDK has no JSON. What little is needed is done by hand here; a program of yours has Jackson or the like.
 */
public final class Gateway {
    private static final String URL = System.getenv().getOrDefault("SLUICEGATE_URL", "http://127.0.0.1:8080");
    private static final Optional<String> TOKEN = Optional.ofNullable(System.getenv("SLUICEGATE_TOKEN"));

    /** The same request may well succeed a little later. Everything else has to be changed first. */
    private static final Set<Integer> AGAIN = Set.of(408, 429, 500, 502, 503, 504);
    /** A webhook that is older may be one that somebody overheard and sends again. */
    private static final long TOLERANCE_SECONDS = 300;

    /** A sign of life comes every 15 seconds, unless the gateway is set up otherwise. */
    private static final Duration SILENCE = Duration.ofSeconds(45);

    private static final HttpClient HTTP = HttpClient.newBuilder()
            .version(HttpClient.Version.HTTP_1_1).connectTimeout(Duration.ofSeconds(10)).build();

    /** The gateway said no: a problem document (RFC 9457). Decide by its code, not by the wording. */
    static final class Refused extends Exception {
        final int status;
        final String code;

        Refused(int status, String problem) {
            super(code(status, problem) + " " + Json.text(problem, "detail").orElse("") + faults(problem));
            this.status = status;
            this.code = code(status, problem);
        }

        /** If something on the way answered, not the gateway, it is no problem document. */
        private static String code(int status, String problem) {
            return Json.text(problem, "code").orElse(String.valueOf(status));
        }

        private static String faults(String problem) {
            var fault = Pattern.compile("\\{\"pointer\":" + Json.STRING + ",\"detail\":" + Json.STRING + "}");
            var all = new StringBuilder();
            fault.matcher(problem).results().forEach(one ->
                    all.append("\n  ").append(Json.unescape(one.group(1))).append(": ").append(Json.unescape(one.group(2))));
            return all.toString();
        }
    }

    /** Sends a request until it is answered for good. Only for what is safe to repeat: with an idempotency key, all is. */
    static InputStream call(String method, String path, Map<String, String> headers, String body)
            throws Refused, InterruptedException {
        var content = body == null ? BodyPublishers.noBody() : BodyPublishers.ofString(body);
        var request = HttpRequest.newBuilder(URI.create(URL + path)).method(method, content).timeout(Duration.ofSeconds(60));
        headers.forEach(request::header);
        TOKEN.ifPresent(token -> request.header("Authorization", "Bearer " + token));
        if (body != null) {
            request.header("Content-Type", "application/json");
        }
        for (double pause = 0.5; ; pause = Math.min(pause * 2, 30)) {
            String reason;
            double wait = pause;
            try {
                HttpResponse<InputStream> response = HTTP.send(request.build(), BodyHandlers.ofInputStream());
                if (response.statusCode() < 300) {
                    return response.body();
                }
                var refused = new Refused(response.statusCode(), text(response.body()));
                if (!AGAIN.contains(refused.status)) {
                    throw refused;
                }
                reason = refused.getMessage();
                wait = response.headers().firstValue("Retry-After").map(Double::parseDouble).orElse(pause);
            } catch (IOException error) {
                // It may have arrived or not. Sent again with the same key, it takes effect once.
                reason = error.toString();
            }
            System.err.println(reason + "; again in " + wait + " s");
            Thread.sleep((long) (wait * 1000));
        }
    }

    private static String text(InputStream body) throws IOException {
        try (body) {
            return new String(body.readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    /** Submits a transaction and answers its record once it is settled. */
    static String settle(String body, String key) throws Refused, InterruptedException, IOException {
        String record = text(call("POST", "/v1/transactions", Map.of("Idempotency-Key", key, "Prefer", "wait=10"), body));
        while (Json.text(record, "status").orElseThrow().equals("pending")) {
            String id = Json.text(record, "id").orElseThrow();
            record = text(call("GET", "/v1/transactions/" + id + "?wait=30", Map.of(), null));
        }
        return record;
    }

    static int pay(String order, String from, String to, String amount) throws Refused, InterruptedException, IOException {
        String body = """
                {"ledger":"main","contract":"token","function":"Transfer","args":[%s,%s,%d],"metadata":{"order":%s}}"""
                .formatted(Json.quote(from), Json.quote(to), Long.parseLong(amount), Json.quote(order));
        String record = settle(body, "order-" + order);
        String id = Json.text(record, "id").orElseThrow();
        if (Json.text(record, "status").orElseThrow().equals("done")) {
            System.out.println("done " + id + " in block " + Json.number(record, "block").orElseThrow());
            return 0;
        }
        System.out.println("failed " + id + " " + Json.text(record, "code").orElseThrow() + ": " + Json.text(record, "message").orElseThrow());
        return 1;
    }

    static int cancel(String id) throws Refused, InterruptedException, IOException {
        // Refused with 409 (SG-0023) if it is too late: then nothing has changed.
        String record = text(call("POST", "/v1/transactions/" + id + "/cancel", Map.of(), null));
        System.out.println(Json.text(record, "code").orElseThrow() + " " + Json.text(record, "id").orElseThrow());
        return 0;
    }

    /** Takes an event; answers whether to go on. */
    interface Listener {
        boolean event(String kind, String data);
    }

    /** Server-sent events. A connection that breaks is taken up again where it ended: nothing is missed or told twice. */
    static void follow(String path, Listener listener) throws Refused, InterruptedException {
        var headers = new HashMap<>(Map.of("Accept", "text/event-stream"));
        while (true) {
            InputStream body = call("GET", path, headers, null);
            try (var silence = new Silence(body); var lines = new BufferedReader(new InputStreamReader(body, StandardCharsets.UTF_8))) {
                String kind = "message";
                var data = new StringBuilder();
                for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                    silence.broken();
                    String[] parts = line.split(": ?", 2);
                    String value = parts.length > 1 ? parts[1] : "";
                    if (parts[0].equals("event")) {
                        kind = value;
                    } else if (parts[0].equals("data")) {
                        data.append(value);
                    } else if (parts[0].equals("id")) {
                        headers.put("Last-Event-ID", value);
                    } else if (line.isEmpty() && data.length() > 0) {
                        if (!listener.event(kind, data.toString())) {
                            return;
                        }
                        kind = "message";
                        data.setLength(0);
                    }
                }
            } catch (IOException error) {
                System.err.println(error + "; connecting again");
            }
            Thread.sleep(500);
        }
    }

    /** Closes a stream on which nothing comes any more: the client of the JDK would wait for ever. */
    static final class Silence implements AutoCloseable {
        private final InputStream stream;
        private final Timer timer = new Timer(true);
        private volatile Instant last = Instant.now();

        Silence(InputStream stream) {
            this.stream = stream;
            timer.schedule(new TimerTask() {
                @Override
                public void run() {
                    if (last.plus(SILENCE).isBefore(Instant.now())) {
                        close();
                    }
                }
            }, 1000, 1000);
        }

        void broken() {
            last = Instant.now();
        }

        @Override
        public void close() {
            timer.cancel();
            try {
                stream.close();
            } catch (IOException error) {
                System.err.println(error);
            }
        }
    }

    static int watch(long count) throws Refused, InterruptedException {
        long[] left = {count};
        follow("/v1/events", (kind, data) -> {
            if (kind.equals("ready") || kind.equals("reset")) {
                // After `reset`, away for longer than the gateway remembers: list /v1/transactions, then go on.
                System.out.println(kind);
            } else if (kind.equals("transaction") && !Json.text(data, "status").orElseThrow().equals("pending")) {
                System.out.println(Json.text(data, "status").orElseThrow() + " " + Json.text(data, "id").orElseThrow());
                left[0] -= 1;
            }
            return left[0] > 0;
        });
        return 0;
    }

    /** Standard Webhooks: HMAC-SHA256 over id, timestamp and the body as it came, byte for byte. */
    static boolean isGenuine(String secret, String id, String timestamp, String signatures, byte[] body) throws GeneralSecurityException {
        if (!timestamp.matches("[0-9]{1,12}") || Math.abs(Instant.now().getEpochSecond() - Long.parseLong(timestamp)) > TOLERANCE_SECONDS) {
            return false;
        }
        var mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(Base64.getDecoder().decode(secret.replaceFirst("^whsec_", "")), "HmacSHA256"));
        mac.update((id + "." + timestamp + ".").getBytes(StandardCharsets.UTF_8));
        byte[] wanted = ("v1," + Base64.getEncoder().encodeToString(mac.doFinal(body))).getBytes(StandardCharsets.UTF_8);
        // There are several while a secret is rotated; one that fits is enough. Compared in constant time.
        return Arrays.stream(signatures.split(" "))
                .anyMatch(one -> MessageDigest.isEqual(wanted, one.getBytes(StandardCharsets.UTF_8)));
    }

    static int verify() throws GeneralSecurityException, IOException {
        var env = System.getenv();
        boolean genuine = isGenuine(env.get("WEBHOOK_SECRET"), env.get("WEBHOOK_ID"), env.get("WEBHOOK_TIMESTAMP"),
                env.get("WEBHOOK_SIGNATURE"), System.in.readAllBytes());
        System.out.println(genuine ? "genuine" : "forged");
        return genuine ? 0 : 1;
    }

    /** As much JSON as the above needs, of documents whose names come once. */
    static final class Json {
        static final String STRING = "\"((?:[^\"\\\\]|\\\\.)*+)\"";

        /** The first text of this name. */
        static Optional<String> text(String json, String name) {
            var found = Pattern.compile("\"" + name + "\":" + STRING).matcher(json);
            return found.find() ? Optional.of(unescape(found.group(1))) : Optional.empty();
        }

        static Optional<Long> number(String json, String name) {
            var found = Pattern.compile("\"" + name + "\":(\\d+)").matcher(json);
            return found.find() ? Optional.of(Long.parseLong(found.group(1))) : Optional.empty();
        }

        static String quote(String text) {
            var quoted = new StringBuilder("\"");
            text.chars().forEach(c -> quoted.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", c) : String.valueOf((char) c)));
            return quoted.append('"').toString();
        }

        static String unescape(String text) {
            return Pattern.compile("\\\\(u([0-9a-fA-F]{4})|.)").matcher(text).replaceAll(one -> {
                if (one.group(2) != null) {
                    return java.util.regex.Matcher.quoteReplacement(String.valueOf((char) Integer.parseInt(one.group(2), 16)));
                }
                int at = "bfnrt".indexOf(one.group(1));
                return java.util.regex.Matcher.quoteReplacement(at < 0 ? one.group(1) : String.valueOf("\b\f\n\r\t".charAt(at)));
            });
        }
    }

    public static void main(String[] words) throws Exception {
        String command = words.length > 0 ? words[0] : "";
        try {
            if (command.equals("pay") && words.length == 5) {
                System.exit(pay(words[1], words[2], words[3], words[4]));
            } else if (command.equals("cancel") && words.length == 2) {
                System.exit(cancel(words[1]));
            } else if (command.equals("watch")) {
                System.exit(watch(words.length > 1 ? Long.parseLong(words[1]) : Long.MAX_VALUE));
            } else if (command.equals("verify")) {
                System.exit(verify());
            }
            System.err.println("commands: pay ORDER FROM TO AMOUNT, cancel ID, watch [COUNT], verify");
        } catch (Refused refused) {
            System.err.println(refused.getMessage());
        }
        System.exit(2);
    }
}
