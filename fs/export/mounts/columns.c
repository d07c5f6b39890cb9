#include "fs/export/mounts/columns.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { GAP = 2, PATH_MIN = 12, COLUMNS_MAX = 16 };

/* Characters of UTF-8, each taken for one column. */
static size_t count_characters(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

struct layout {
    size_t width[COLUMNS_MAX]; /* 0: left out */
    size_t n;
};

static size_t total_width(const struct layout *layout)
{
    size_t sum = 0, shown = 0;
    for (size_t i = 0; i < layout->n; i++) {
        sum += layout->width[i];
        shown += layout->width[i] > 0;
    }
    return sum + (shown > 0 ? (shown - 1) * GAP : 0);
}

/* The widest path that can still give something, or n. */
static size_t find_longest_path(const struct layout *layout, const struct tp_column *columns)
{
    size_t best = layout->n, width = PATH_MIN;
    for (size_t i = 0; i < layout->n; i++) {
        if (columns[i].is_path && layout->width[i] > width) {
            best = i;
            width = layout->width[i];
        }
    }
    return best;
}

static size_t find_least(const struct layout *layout, const struct tp_column *columns)
{
    size_t best = layout->n;
    int rank = 0;
    for (size_t i = 0; i < layout->n; i++) {
        if (layout->width[i] > 0 && columns[i].rank > rank) {
            best = i;
            rank = columns[i].rank;
        }
    }
    return best;
}

static void fit(struct layout *layout, const struct tp_column *columns, size_t width)
{
    while (total_width(layout) > width) {
        size_t path = find_longest_path(layout, columns);
        size_t least = find_least(layout, columns);
        if (path < layout->n)
            layout->width[path]--;
        else if (least < layout->n)
            layout->width[least] = 0;
        else
            break;
    }
}

/* The last `width` characters, the first of them "…" if something is missing. */
static void print_path(FILE *stream, const char *text, size_t width)
{
    size_t n = count_characters(text);
    if (n > width) {
        fputs("\xe2\x80\xa6", stream);
        for (size_t skip = n - width + 1; skip > 0 || ((unsigned char)*text & 0xc0) == 0x80; text++)
            skip -= ((unsigned char)*text & 0xc0) != 0x80;
    }
    fputs(text, stream);
}

static void print_row(FILE *stream, const struct layout *layout, const struct tp_column *columns,
                      const char *const *cells)
{
    size_t last = layout->n;
    for (size_t i = 0; i < layout->n; i++)
        last = layout->width[i] > 0 ? i : last;
    for (size_t i = 0; i < layout->n; i++) {
        size_t length = count_characters(cells[i]), width = layout->width[i];
        if (width == 0)
            continue;
        int padding = length < width ? (int)(width - length) : 0;
        if (columns[i].is_right)
            fprintf(stream, "%*s", padding, "");
        print_path(stream, cells[i], width);
        if (i < last)
            fprintf(stream, "%*s", (columns[i].is_right ? 0 : padding) + GAP, "");
    }
    fputc('\n', stream);
}

void tp_columns_print(FILE *stream, const struct tp_column *columns, size_t n_columns,
                      const char *const *cells, size_t n_rows, size_t width)
{
    struct layout layout = {.n = n_columns};
    const char *titles[COLUMNS_MAX];
    for (size_t i = 0; i < n_columns; i++) {
        titles[i] = columns[i].title;
        layout.width[i] = count_characters(titles[i]);
        for (size_t row = 0; row < n_rows; row++) {
            size_t length = count_characters(cells[row * n_columns + i]);
            layout.width[i] = length > layout.width[i] ? length : layout.width[i];
        }
    }
    if (width > 0)
        fit(&layout, columns, width);
    print_row(stream, &layout, columns, titles);
    for (size_t row = 0; row < n_rows; row++)
        print_row(stream, &layout, columns, cells + row * n_columns);
}

size_t tp_columns_width(void)
{
    struct winsize size;
    const char *text = getenv("COLUMNS");
    unsigned long wanted = text != NULL ? strtoul(text, NULL, 10) : 0;
    if (wanted > 0 && wanted < 10000)
        return wanted;
    if (!isatty(STDOUT_FILENO))
        return 0;
    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}
