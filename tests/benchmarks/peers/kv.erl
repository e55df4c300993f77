%% A server with a map of entries, as one writes it in Erlang. Compiled twice: -DVERSION=1 and -DVERSION=2.
-module(kv).
-behaviour(gen_server).
-export([start/1, init/1, handle_call/3, handle_cast/2, code_change/3]).

start(Entries) ->
    gen_server:start({local, kv}, kv, Entries, []).

init(Entries) ->
    {ok, {0, maps:from_list([{Key, {Key, 0, 1}} || Key <- lists:seq(0, Entries - 1)])}}.

handle_call({get, Key}, _From, {_, Map} = State) -> {reply, maps:get(Key, Map, none), State};
handle_call(total, _From, {Total, _} = State) -> {reply, Total, State};
handle_call(version, _From, State) -> {reply, ?VERSION, State}.

handle_cast({add, N}, {Total, Map}) -> {noreply, {Total + N, Map}};
handle_cast({add, A, B, C, D, E}, {Total, Map}) when is_binary(A) ->
    {noreply, {Total + B + C + D + E, Map}}.

%% keep: the state stays as it is; rewrite: each entry is made anew, as when its shape changes.
code_change(_Old, State, keep) -> {ok, State};
code_change(_Old, {Total, Map}, rewrite) ->
    {ok, {Total, maps:map(fun(_, {A, B, C}) -> {A, B, C + 1} end, Map)}}.
