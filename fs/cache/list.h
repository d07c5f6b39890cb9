/* A doubly linked list whose links lie inside its members. */
#ifndef TENSORPORT_FS_CACHE_LIST_H
#define TENSORPORT_FS_CACHE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct tp_link {
    struct tp_link *previous, *next;
};

/* The struct of type `type` whose member `member` is `pointer`. */
/* NOLINTBEGIN(bugprone-macro-parentheses): types and names of variables cannot take them. */
#define TP_LIST_ENTRY(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* The body must not remove `link`, unless it leaves the loop at once. */
#define TP_LIST_FOR_EACH(link, list)                                                               \
    for (struct tp_link *link = (list)->next; link != (list); link = link->next)
/* NOLINTEND(bugprone-macro-parentheses) */

static inline void tp_list_init(struct tp_link *list)
{
    list->previous = list->next = list;
}

static inline bool tp_list_is_empty(const struct tp_link *list)
{
    return list->next == list;
}

static inline void tp_list_append(struct tp_link *list, struct tp_link *link)
{
    *link = (struct tp_link){list->previous, list};
    list->previous->next = link;
    list->previous = link;
}

static inline void tp_list_prepend(struct tp_link *list, struct tp_link *link)
{
    tp_list_append(list->next, link);
}

static inline void tp_list_remove(struct tp_link *link)
{
    link->previous->next = link->next;
    link->next->previous = link->previous;
}

#endif
