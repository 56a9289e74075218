/* libpcap with a hash table of GLib: packets and bytes per connection.  No expiry, no limits.
 *
 *     libpcap_hash FILE.pcap
 */
#include <arpa/inet.h>
#include <glib.h>
#include <pcap/pcap.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    uint32_t address[2];               /* the lower endpoint first */
    uint16_t port[2];
    uint32_t proto;
} connection_key;

typedef struct {
    connection_key key;
    uint64_t packets, bytes;
} connection;

static guint hash_key(gconstpointer p)
{
    uint64_t words[2];
    memcpy(words, p, sizeof words);
    uint64_t h = (words[0] ^ words[1] * 0xD6E8FEB86659FD93u) * 0xA0761D6478BD642Fu;
    return (guint)(h ^ h >> 32);
}

static gboolean same_key(gconstpointer a, gconstpointer b) { return memcmp(a, b, sizeof(connection_key)) == 0; }

static uint64_t packets;

static void take(u_char *user, const struct pcap_pkthdr *header, const u_char *frame)
{
    GHashTable *table = (GHashTable *)user;
    packets++;
    if (header->caplen < 42 || frame[12] != 8 || frame[13] != 0) return;
    const u_char *ip = frame + 14;
    if (((ip[6] & 0x1f) | ip[7]) != 0) return;          /* a later fragment has no ports */
    connection_key key = {.proto = ip[9]};
    memcpy(key.address, ip + 12, 8);
    memcpy(key.port, ip + (ip[0] & 15) * 4, 4);
    if (key.address[0] > key.address[1] || (key.address[0] == key.address[1] && key.port[0] > key.port[1])) {
        uint32_t address = key.address[0];
        uint16_t port = key.port[0];
        key.address[0] = key.address[1], key.address[1] = address;
        key.port[0] = key.port[1], key.port[1] = port;
    }
    connection *c = g_hash_table_lookup(table, &key);
    if (!c) {
        c = g_new0(connection, 1);
        c->key = key;
        g_hash_table_insert(table, c, c);
    }
    c->packets++;
    c->bytes += header->len;
}

int main(int argc, char **argv)
{
    char error[PCAP_ERRBUF_SIZE];
    pcap_t *capture = argc > 1 ? pcap_open_offline(argv[1], error) : NULL;
    if (!capture) {
        fprintf(stderr, "usage: libpcap_hash FILE.pcap\n%s\n", argc > 1 ? error : "");
        return 2;
    }
    GHashTable *table = g_hash_table_new(hash_key, same_key);
    pcap_loop(capture, -1, take, (u_char *)table);
    printf("{\"packets\": %lu, \"connections\": %u}\n", (unsigned long)packets, g_hash_table_size(table));
    return 0;
}
