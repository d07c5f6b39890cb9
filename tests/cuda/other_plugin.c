/* A plugin as another tpinfer would have it. */
#include "infer/backend.h"

extern const struct tp_plugin tp_plugin;
const struct tp_plugin tp_plugin = {TP_PLUGIN_INTERFACE + 1, NULL};
